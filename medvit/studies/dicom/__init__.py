"""DICOM input: series found by the headers of files, and read as volumes at their place in the patient."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "archive": ["files_of_dicomdir", "unzip"],
        "reader": ["read"],
        "scanner": ["SkippedFiles", "ScanResult", "scan"],
    },
)
