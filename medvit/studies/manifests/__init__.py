"""Manifests: descriptions of data sets in several forms, and the files of a folder that are their cases."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "cases": ["Case", "find_cases", "named_cases", "why_empty"],
        "model": ["Expected", "Layout", "ListedCase", "Manifest", "Source"],
        "read": ["SUFFIXES", "installed_manifests", "read_manifest"],
    },
)
