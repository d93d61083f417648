"""medvit: transformers that segment and restore medical images, as MONAI bundles."""

import lazy_loader as lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submodules=[
        "bundles",
        "data",
        "engines",
        "inferers",
        "losses",
        "metrics",
        "networks",
        "recipes",
        "reports",
        "synthesis",
        "transforms",
    ],
)
