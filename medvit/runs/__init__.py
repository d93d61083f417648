"""The one runner: what is done to studies, one after another or in many processes, and the record of it."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "attempt": ["Attempt", "Work", "attempt"],
        "bundle_work": ["BundleWork"],
        "claim": ["claim"],
        "cluster": ["ClusterExecutor"],
        "dataset": ["StudyDataset", "StudyItem", "study_loader"],
        "done": ["study_folder"],
        "evaluator": ["StudyEvaluator"],
        "folder": ["ResultOptions", "StudyWriter"],
        "journal": ["Journal"],
        "outcome": ["StudyOutcome"],
        "run": ["Plan", "run_cohort", "run_work"],
        "serial": ["finish", "run_bundle", "run_studies"],
        "status": ["CohortStatus", "read_status"],
        "workers": ["LocalExecutor"],
    },
)
