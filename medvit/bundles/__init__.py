"""Bundles: finding them, opening them, and making them from published checkpoints."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "backend": ["execution_for"],
        "command_line": ["check_flags", "locate"],
        "export": ["export_bundle"],
        "find": ["Bundle", "find_bundle", "installed_bundles"],
        "finder": ["StructureFinder"],
        "gate": ["Gate", "Scope"],
        "segmentation": ["Result", "check_for", "segment", "segment_each"],
        "workflow": ["OpenBundle", "open_bundle"],
    },
)
