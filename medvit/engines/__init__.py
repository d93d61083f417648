"""From found studies to written results: the dataset, the evaluator and the run of a bundle."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "dataset": ["StudyDataset", "StudyItem", "study_loader"],
        "distributed": ["data_parallel", "join_process_group", "leave_process_group", "world_size"],
        "done": ["sha256_of", "study_folder"],
        "evaluator": ["StudyEvaluator"],
        "outcome": ["StudyOutcome"],
        "results": ["ResultOptions", "StudyWriter"],
        "run": ["finish", "run_bundle", "run_studies"],
        "training": [
            "MixedPrecisionStep",
            "TrainingLog",
            "inference_component",
            "save_weights",
            "start_training",
        ],
        "weights": ["load_weights"],
    },
)
