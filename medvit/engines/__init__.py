"""From found studies to written results: the dataset, the evaluator and the run of a bundle."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "dataset": ["StudyDataset", "StudyItem"],
        "done": ["sha256_of", "study_folder"],
        "evaluator": ["StudyEvaluator"],
        "outcome": ["StudyOutcome"],
        "results": ["ResultOptions", "StudyWriter"],
        "run": ["finish", "run_bundle", "run_studies"],
        "training": ["MixedPrecisionStep", "inference_component", "save_weights", "start_training"],
        "weights": ["load_weights"],
    },
)
