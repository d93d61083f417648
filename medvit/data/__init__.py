"""What a study is: find it, read it (NIfTI, DICOM), write results back."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "study": ["Grid", "Series", "Study"],
    },
)
