"""The runner: processes studies one after another or in many processes, and keeps the record."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "bundle_work": ["BundleWork", "PipelineWork"],
        "claims": ["claim"],
        "cluster": ["ClusterExecutor"],
        "dataset": ["StudyDataset", "StudyItem", "study_loader"],
        "done": ["study_folder"],
        "evaluator": ["StudyEvaluator"],
        "folder": ["ResultOptions", "StudyWriter"],
        "journal": ["Journal"],
        "listener": ["BundleProcess", "Listener", "Route", "listen", "read_routes"],
        "outcome": ["StudyOutcome"],
        "pipeline": ["StudyPipeline"],
        "plan": ["RunPlan"],
        "run": ["run_cohort", "run_work"],
        "serial": ["SerialExecutor", "finish", "run_bundle", "run_studies"],
        "status": ["RunStatus", "read_status"],
        "work": ["Attempt", "Work", "attempt"],
        "workers": ["LocalExecutor"],
    },
)
