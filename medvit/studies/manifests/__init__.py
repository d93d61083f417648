"""Manifests: what a data set is, whichever form its file has, and which files of a folder are its cases."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "cases": ["Case", "find_cases", "named_cases", "why_empty"],
        "model": ["Expected", "Layout", "ListedCase", "Manifest", "Source"],
        "read": ["SUFFIXES", "installed_manifests", "read_manifest"],
    },
)
