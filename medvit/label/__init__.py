"""The MONAI Label app over all bundles."""
