"""medvit: transformers that segment and restore medical images, as MONAI bundles."""

import lazy_loader as lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submodules=[
        "api",
        "bundles",
        "datasets",
        "evaluation",
        "inference",
        "losses",
        "metrics",
        "networks",
        "reports",
        "runs",
        "studies",
        "synthesis",
        "training",
        "transforms",
    ],
    submod_attrs={"api": ["RestoredImage", "SegmentedImage", "Segmenter", "restore", "segment"]},
)
