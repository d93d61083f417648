"""Clinical metrics, in millimetres and millilitres."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "restoration": ["hu_bias", "psnr", "psnr_y_of_bgr", "rmse", "ssim", "ssim_y_of_bgr"],
    },
)
