"""DICOM in: series found among files by their headers, and read as volumes that stand at their place."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "archive": ["files_of_dicomdir", "unzip"],
        "reader": ["read"],
        "scanner": ["SkippedFiles", "ScanResult", "scan"],
    },
)
