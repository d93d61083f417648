"""Dictionary transforms that MONAI lacks."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "bias": ["CorrectBiasd"],
        "brain": ["clean_brain_labels", "prepare_head_mr"],
        "components": ["LargestComponentd"],
        "in_plane": ["RefinePixelsd", "pixel_refinement_of", "prepare_coarse_pixels", "refinement_to"],
        "load_study": ["LoadStudyd"],
        "percentiles": ["ScaleToPercentilesd"],
        "region_channel": ["RegionChanneld", "add_region_channel", "prepare_axial_slices"],
        "region_maps": ["RegionMapd"],
        "resample": ["LinearAxis", "ResampleImaged", "resample_image"],
        "restoration": ["ClampRestoredd", "KeepOutsided", "ScaleToUnitd"],
        "sam_regions": ["SamRegions"],
        "slice_stack": ["SliceStack"],
        "through_plane": ["RefineSlicesd", "prepare_thick_slices", "refinement_of"],
    },
)
