"""Losses that the papers propose and MONAI lacks."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "dice_ce": ["SparseDiceCELoss"],
        "focal_region": ["CharbonnierLoss", "FocalRegionLoss"],
        "lateral": ["LateralDiceCELoss"],
        "region_tversky": ["MambaClinixLoss", "RegionTverskyLoss"],
        "swin_pretraining": ["SwinPretrainingLoss"],
        "uncertainty": ["UncertaintyWeightedLoss"],
    },
)
