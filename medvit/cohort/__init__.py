"""Many studies: done marks and a journal, local and distributed workers, resume."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "attempt": ["Attempt", "Work", "attempt"],
        "bundle_work": ["BundleWork"],
        "claim": ["claim"],
        "cluster": ["ClusterExecutor"],
        "journal": ["Journal"],
        "local": ["LocalExecutor"],
        "run": ["Plan", "run_cohort", "run_work"],
        "status": ["CohortStatus", "read_status"],
    },
)
