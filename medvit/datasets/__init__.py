"""What a data set is: read its manifest, find its cases, check its folder before any training."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "annotation": ["read_annotation"],
        "cases": ["Case", "find_cases"],
        "check": ["check_dataset"],
        "findings": ["Findings", "Problem"],
        "manifest": ["Manifest"],
        "read": ["installed_manifests", "read_manifest"],
    },
)
