"""Clinical metrics, in millimetres and millilitres."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "calibration": ["Reliability", "pooled", "reliability", "segmentation_reliability"],
        "centreline": ["centreline_dice"],
        "difference": ["Difference", "assess_difference", "grid_pattern", "noise_power"],
        "detection": [
            "Detections",
            "lesion_average_precision",
            "lesion_candidates",
            "match_candidates",
            "patient_auc",
            "picai_score",
        ],
        "lesions": ["LesionScores", "lesion_scores"],
        "overlap": ["VolumeError", "dice", "iou", "volume_error", "volume_ml"],
        "restoration": [
            "block_biases",
            "hfen",
            "hu_bias",
            "nrmse",
            "psnr",
            "psnr_y_of_bgr",
            "rmse",
            "ssim",
            "ssim_y_of_bgr",
        ],
        "surface": ["SurfaceDistances", "assd", "hd95", "surface_dice", "surface_distances"],
        "transunet": ["TransUNetScores", "transunet_scores"],
    },
)
