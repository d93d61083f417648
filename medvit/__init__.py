"""medvit: transformers that segment and restore medical images, as MONAI bundles."""

__version__ = "0.1.0"
