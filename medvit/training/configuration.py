"""The workflows of a bundle that is trained: inference, and the training itself as a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvit.convert.configuration import inference_config as converted_config
from medvit.convert.deduce import Deduction
from medvit.convert.settings import Conversion, ConversionSettings
from medvit.data import safe_name
from medvit.training.plan import Plan

_SLICES = 8  # that a two-dimensional network sees at once
_ROTATION = 0.26  # radians, 15 degrees


def inference_config(plan: Plan, name: str) -> dict[str, Any]:
    """Content of ``configs/inference.json``."""
    dims = len(plan.window)
    settings = ConversionSettings(
        intensity=plan.intensity,
        orientation="RAS",
        channels=plan.channels if len(plan.channels) > 1 else (),
    )
    found = Deduction(plan.architecture, dims, {"in_channels": len(plan.channels)})
    config = converted_config(
        Conversion(found, settings, Path(), plan.labels, plan.spacing, tuple(plan.patch_size))
    )
    config |= {"bundle_root": _root(name), "network_def": plan.network}
    if "$from medvit import bundles" not in config["imports"]:
        config["imports"].insert(0, "$from medvit import bundles")
    config["imports"] = [one for one in config["imports"] if one != "$from pathlib import Path"]
    if plan.slice_axis is not None:
        config["roi_size"] = list(plan.window)
        config["inferer"] |= {"roi_size": "@roi_size", "slices": _SLICES, "slice_axis": plan.slice_axis}
    return config


def train_config(plan: Plan, name: str) -> dict[str, Any]:
    """Content of ``configs/train.json``: goes on from the bundle's weights, on the cases of a manifest."""
    s = plan.settings
    steps = s["epochs"] * s["epoch_length"]
    return {
        "imports": [
            "$from medvit import bundles",
            "$from medvit import engines",
            "$from medvit import training",
            "$import monai",
            "$import monai.handlers",
            "$import torch",
        ],
        "bundle_root": _root(name),
        "manifest": "dataset.json",
        "dataset_dir": "",
        "left_out": [],
        "output_dir": "$@bundle_root + '/runs'",
        "ckpt_dir": "$@output_dir + '/checkpoints'",
        "scratch": "$@output_dir + '/samples'",
        "weights": "$@output_dir + '/model.pt'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "pretrained": "$@bundle_root + '/models/model.pt'",
        "resume": "",
        "patch_size": list(plan.patch_size),
        "slice_axis": plan.slice_axis,
        **{key: s[key] for key in ("val_fraction", "batch_size", "epochs", "epoch_length", "learning_rate")},
        "val_interval": 1,
        "num_workers": "$0 if @device.type == 'cpu' else 4",
        "patience": s["patience"],
        "seed": s["seed"],
        "amp": "$@device.type == 'cuda'",
        "label_names": [structure["name"] for structure in plan.labels["structures"]],
        "split": "$training.split_cases(@manifest, @dataset_dir, @val_fraction, @seed, @left_out)",
        "network_def": "$engines.inference_component(@bundle_root, 'network_def')",
        "network": "$(engines.load_weights(@network_def, @pretrained) if @pretrained else @network_def)"
        ".to(@device)",
        "loss": {"_target_": "medvit.losses.SparseDiceCELoss"},
        "optimizer": {
            "_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": "@learning_rate",
            "weight_decay": 0.01,
        },
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.PolynomialLR", "optimizer": "@optimizer",
            "total_iters": "$@epochs * @epoch_length", "power": 0.9,
        },
        "ema": {
            "_target_": "ignite.handlers.EMAHandler", "model": "@network",
            "momentum": round(min(max(20 / steps, 0.001), 0.5), 4),
        },
        "best": {
            "_target_": "medvit.training.BestWeights", "network": "$@ema.ema_model",
            "evaluator": "@validate#evaluator", "names": "@label_names", "patience": "@patience",
        },
        "progress": {"_target_": "medvit.training.Progress", "best": "@best"},
        "train": _train(plan),
        "validate": _validate(len(plan.labels["structures"]) + 1),
        "initialize": [
            "$monai.utils.set_determinism(seed=@seed)",
            "$@best.attach(@train#trainer)",
            "$@progress.attach(@train#trainer)",
            "$engines.start_training(@train#trainer, @ema, @ckpt_dir, @resume, best=@best, "
            "lr_scheduler=@lr_scheduler)",
        ],
        "run": ["$@train#trainer.run()", "$engines.save_weights(@best.restored(), @weights)"],
    }  # fmt: skip


def _root(name: str) -> str:
    # Whatever a folder may be called, it is no part of an expression.
    return f"$bundles.locate({safe_name(name)!r})"


def _train(plan: Plan) -> dict[str, Any]:
    return {
        "preprocessing": {"_target_": "Compose", "transforms": _augmentation(plan)},
        "dataset": {
            "_target_": "medvit.training.PatchDataset",
            "samples": "$training.prepare_samples(@split.training, @split.manifest, @bundle_root, @scratch)",
            "patch_size": "@patch_size", "slice_axis": "@slice_axis", "transform": "@train#preprocessing",
            "length": "$@epochs * @epoch_length * @batch_size", "seed": "@seed",
        },
        "dataloader": {
            "_target_": "torch.utils.data.DataLoader", "dataset": "@train#dataset",
            "batch_size": "@batch_size", "num_workers": "@num_workers",
        },
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "epoch_level": False,
             "print_lr": False},
            {"_target_": "medvit.training.NanGuard"},
            {"_target_": "ValidationHandler", "_disabled_": "$not @split.validation",
             "validator": "@validate#evaluator", "epoch_level": True, "interval": "@val_interval"},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer", "max_epochs": "@epochs", "device": "@device",
            "train_data_loader": "@train#dataloader", "epoch_length": "@epoch_length",
            "network": "@network", "optimizer": "@optimizer", "loss_function": "@loss",
            "inferer": "@train#inferer", "train_handlers": "@train#handlers", "decollate": False,
            "iteration_update": {"_target_": "medvit.engines.MixedPrecisionStep", "enabled": "@amp"},
        },
    }  # fmt: skip


def _validate(classes: int) -> dict[str, Any]:
    return {
        "dataset": {
            "_target_": "medvit.training.WholeCases", "cases": "$@split.validation",
            "manifest": "$@split.manifest",
            "preprocessing": "$engines.inference_component(@bundle_root, 'preprocessing')",
        },
        "dataloader": {
            "_target_": "torch.utils.data.DataLoader", "dataset": "@validate#dataset",
            "collate_fn": "$training.as_batch",
        },
        "inferer": "$engines.inference_component(@bundle_root, 'inferer')",
        "postprocessing": {"_target_": "Compose", "transforms": []},
        "key_metric": {
            "val_mean_dice": {
                "_target_": "MeanDice", "include_background": False, "num_classes": classes,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "handlers": [],
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "network": "$@ema.ema_model",
            "val_data_loader": "@validate#dataloader", "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing", "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers", "decollate": False,
        },
    }  # fmt: skip


def _augmentation(plan: Plan) -> list[dict[str, Any]]:
    both = ["image", "label"]
    transforms: list[dict[str, Any]] = [
        {"_target_": "RandAffined", "keys": both, "spatial_size": list(plan.window), "prob": 0.5,
         "rotate_range": _rotations(plan), "scale_range": 0.15, "mode": ["bilinear", "nearest"],
         "padding_mode": "border"},
    ]  # fmt: skip
    # In sagittal slices there is no left and right.
    if plan.mirror and plan.slice_axis != 0:
        pairs = [list(pair) for pair in plan.pairs]
        transforms.append({"_target_": "medvit.training.MirrorLeftRightd", "keys": both, "pairs": pairs})
    return [
        *transforms,
        {"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.15, "std": 0.05},
        {"_target_": "RandGaussianSmoothd", "keys": "image", "prob": 0.1},
        {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.2, "prob": 0.3},
        {"_target_": "RandShiftIntensityd", "keys": "image", "offsets": 0.1, "prob": 0.3},
        {"_target_": "RandAdjustContrastd", "keys": "image", "gamma": [0.7, 1.5], "prob": 0.2},
    ]


def _rotations(plan: Plan) -> float | list[float]:
    """Angles about each axis; slices that are far apart are turned in their plane alone."""
    if plan.slice_axis is not None:
        return _ROTATION
    coarse = max(plan.spacing) > 3 * min(plan.spacing)
    thick = plan.spacing.index(max(plan.spacing))
    return [0.0 if coarse and axis != thick else _ROTATION for axis in range(3)]
