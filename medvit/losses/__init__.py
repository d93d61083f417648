"""Losses that the papers propose and MONAI lacks."""
