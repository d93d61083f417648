"""Training a bundle's network on your own labelled studies; the result is a bundle that runs."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submodules={"recipes"},
    submod_attrs={
        "architectures": ["restorer_network"],
        "base": ["Base", "find_base"],
        "cases": ["WholeCases", "as_batch", "study_of"],
        "folds": ["train_folds"],
        "handlers": ["BestWeights", "NanGuard", "Progress"],
        "history": ["History"],
        "patches": ["PatchDataset", "Sample", "prepare_samples"],
        "encoder_file": ["read_encoder"],
        "choices": ["Choices"],
        "plan": ["Plan", "make_plan"],
        "restorers": ["find_restorer", "restorer_for", "train_restorer"],
        "run": ["Split", "split_cases", "train_bundle"],
        "schedule": ["Schedule"],
        "distributed": ["data_parallel", "join_process_group", "leave_process_group", "world_size"],
        "pretraining": ["pretrain_bundle"],
        "pretraining_choices": ["PretrainingChoices"],
        "slice_pairs": ["Degradation", "RestorationSlices"],
        "steps": [
            "MixedPrecisionStep",
            "TrainingLog",
            "inference_component",
            "save_weights",
            "start_training",
        ],
        "case_facts": ["CaseFacts", "survey"],
        "transforms": ["MirrorLeftRightd", "UnlabelledAsBackgroundd"],
    },
)
