"""Studies: finding them, reading them (NIfTI, DICOM) and writing results back."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "check": ["Checked", "Preflight", "check_studies", "check_study"],
        "discover": ["Found", "LeftOut", "Refused", "SeriesRules", "find_studies", "only_study"],
        "labels": ["LabelTable", "Structure", "load_label_table"],
        "formats": ["read_study"],
        "study": ["Grid", "LabelMap", "LoadedStudy", "Series", "Study"],
        "files": [
            "atomic_path",
            "safe_join",
            "safe_name",
            "sha256_of",
            "write_image",
            "write_json",
            "write_label_map",
        ],
    },
)
