"""The networks, one architecture per file, each usable as ``_target_: medvit.networks.NAME``."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "catanet": ["CATANet"],
        "craft": ["CRAFT"],
        "cswin": ["CSwin"],
        "cswin_unet": ["CSwinUNet"],
        "cswin_unetr": ["CSwinUNETR"],
        "d_former": ["DFormer"],
        "detail": ["DetailSegmenter"],
        "drsformer": ["DRSformer"],
        "duoformer": ["DuoFormer"],
        "ensemble": ["Ensemble"],
        "blended": ["BlendedRestorer"],
        "hat": ["HAT"],
        "paratranscnn": ["ParaTransCNN"],
        "lateral": ["LateralSegmenter"],
        "mambaclinix": ["MambaClinix"],
        "masked_autoencoder": ["MaskedAutoencoder", "ViTClassifier"],
        "published": ["LoadReport", "read_checkpoint"],
        "pvt_v2": ["PVTv2"],
        "r2t_mil": ["R2TMIL"],
        "rat": ["RAT"],
        "region_input": ["RegionInput"],
        "segformer3d": ["SegFormer3D"],
        "swin_unetr": ["SwinUNETR"],
        "swin_pretraining": ["SwinPretrainer"],
        "transunet": ["TransUNet"],
        "uni4eye": ["Uni4Eye"],
        "uniformer": ["UniFormer"],
        "weights": ["load_weights"],
        "xlstm_unet": ["XLSTMUNet"],
    },
)
