"""Bundles served to viewers: a MONAI Label app, run in an environment of its own (`make label-env`)."""
