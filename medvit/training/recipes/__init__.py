"""What the papers' training recipes share and MONAI lacks: data lists, augmentation, schedules, scores."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "cases": ["case_list", "listed_fold", "nnunet_fold"],
        "detection": ["PICAIScore", "picai_handler"],
        "intensity": ["ForegroundIntensity", "foreground_intensity"],
        "nnunet": ["nnunet_augmentation", "nnunet_postprocessing", "nnunet_preprocessing"],
        "restoration": ["RegionChannelLoss", "RegionsToLabeld"],
        "schedules": ["poly_by_epoch", "warmup_cosine", "warmup_restarts"],
        "scores": [
            "CaseScores",
            "WindowedPSNR",
            "WindowedRMSE",
            "WindowedSSIM",
            "dice_absent_is_zero",
            "dice_where_present",
            "nnformer_dice",
            "nnformer_hd95",
            "score_handler",
            "transunet_dice",
            "transunet_hd95",
        ],
        "slices": ["ResizeSliced", "SliceDataset", "SliceProtocolInferer", "TurnSliced"],
        "start": ["Unaveraged", "keep_best", "start_from"],
        "transforms": ["ManifestLabelsd", "ScaleSlicesd", "SlicesFirstd"],
    },
)
