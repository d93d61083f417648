"""Published checkpoints as bundles that run: what a state dict tells, what must be said, what is written."""

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
