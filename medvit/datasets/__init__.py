"""Data sets: read a manifest, find its cases, check its folder before any training."""

import lazy_loader as lazy

from medvit.studies.manifests import Case, Manifest, find_cases, installed_manifests, read_manifest

__getattr__, __dir__, _lazy = lazy.attach(
    __name__,
    submod_attrs={
        "annotation": ["read_annotation"],
        "check": ["check_dataset"],
        "findings": ["Findings", "Problem"],
        "splits": ["Split", "split_cases"],
    },
)
__all__ = ["Case", "Manifest", "find_cases", "installed_manifests", "read_manifest", *_lazy]
