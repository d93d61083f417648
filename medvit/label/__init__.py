"""Bundles served to viewers: a MONAI Label app, run in a separate environment (`make label-env`)."""
