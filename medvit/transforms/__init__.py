"""Dictionary transforms that MONAI lacks."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "components": ["LargestComponentd"],
        "load_study": ["LoadStudyd"],
        "regions": ["RegionMapd"],
        "resample": ["ResampleImaged"],
        "sam_regions": ["SamRegions"],
    },
)
