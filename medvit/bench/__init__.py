"""The fair bench: bundles of one kind on the same studies, in quality and in cost."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "manual": ["manual_studies"],
        "own": ["own_studies"],
        "peers": ["Peer", "read_peer"],
        "protocol": ["Protocol", "read_protocol"],
        "restore": ["bench_restore"],
        "truth": ["RestoreOptions"],
        "run": ["BenchOptions", "bench_brain"],
        "studies": ["BenchStudy", "Reference", "compare"],
        "synthetic": ["Acquisition", "synthetic_studies"],
        "icbm": ["template_study"],
    },
)
