"""De-identification of DICOM images (PS3.15 Annex E, Basic Profile): only what is known to be safe stays."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "attributes": ["deidentify"],
        "folder": ["Deidentified", "deidentify_files", "deidentify_folder"],
        "profile": ["Profile"],
    },
)
