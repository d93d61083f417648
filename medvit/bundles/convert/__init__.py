"""Conversion of published checkpoints into bundles that run."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "bundle": ["convert_checkpoint"],
        "deduction": ["Deduction", "deduce"],
        "plans": ["NNUNetPlan", "read_plan"],
        "settings": ["ConversionSettings", "parse_assignments", "parse_numbers"],
    },
)
