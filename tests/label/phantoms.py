"""Images whose right label map is known voxel by voxel, and bundles that find it with one linear layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medvit.studies.labels import load_label_table

TABLE = load_label_table("brain")
TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def _affine(direction: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(spacing)
    affine[:3, 3] = (-31.0, 12.5, 7.0)
    return affine


#: Shape and affine of each case: all sizes differ, no voxel is a cube.
CASES = {
    "ras": ((24, 18, 14), _affine(np.eye(3), (1.0, 1.25, 2.0))),
    "lps": ((22, 26, 12), _affine(np.diag([-1.0, -1.0, 1.0]), (1.5, 1.0, 2.5))),
    "oblique": ((20, 16, 12), _affine(TURN, (1.0, 1.5, 2.0))),
    "permuted": ((12, 20, 16), _affine(np.eye(3)[:, [1, 2, 0]], (2.0, 1.0, 1.5))),
}


def phantom(shape: tuple[int, ...], labels: tuple[int, ...] = (1, 2, 3), shift: int = 0) -> np.ndarray:
    """An image with an unlike box in three of its corners; each voxel is its label."""
    image = np.zeros(shape, np.float32)
    x, y, z = (n // 3 for n in shape)
    boxes = [np.s_[1:x, 1:y, 1 : z + 1], np.s_[-x:-1, 2:y, 1:z], np.s_[2:x, -y:-1, -z:-2]]
    for box, value in zip(boxes, labels, strict=False):
        image[box] = value
    return np.roll(image, shift, axis=0)


def write_cases(folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """Write all of `CASES`; give the label map that each must get."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {name: phantom(shape, **options) for name, (shape, _) in CASES.items()}
    for name, image in images.items():
        nib.save(nib.Nifti1Image(image, CASES[name][1]), folder / f"{name}.nii.gz")
    return images


def steps(classes: int, sharpness: float = 8.0, shift: float = 0.0) -> dict[str, torch.Tensor]:
    """Weights of a 1x1x1 convolution by which class k has the highest logit where the image is about k."""
    k = torch.arange(classes, dtype=torch.float32)
    weight = (sharpness * k).reshape(-1, 1, 1, 1, 1)
    return {"weight": weight, "bias": -sharpness * (k**2 / 2 + k * shift)}


def make_bundle(
    folder: Path,
    *,
    table: str = "brain",
    channel_def: dict[str, str] | None = None,
    state: dict[str, Any] | None = None,
    **metadata: Any,
) -> Path:
    """A bundle that segments `phantom`; without a table, by the channels that are given."""
    channels = TABLE.channel_def if channel_def is None else channel_def
    pred = {"type": "image", "format": "segmentation", "channel_def": channels}
    facts = {"modality": ["CT", "MR"], **({"labels": table} if table else {})}
    inferer = {
        "_target_": "medvit.inference.StreamingWindowInferer",
        "roi_size": [12, 12, 12],
        "overlap": "@overlap",
        "grid": "source",
    }
    _write(folder, len(channels), inferer, pred, facts, metadata)
    torch.save(steps(len(channels)) if state is None else state, folder / "models" / "model.pt")
    return folder


def make_restorer(folder: Path) -> Path:
    """A bundle that makes 1.5 x + 0.25 of an image."""
    inferer = {
        "_target_": "medvit.inference.RestorationInferer",
        "roi_size": [12, 12, 12],
        "overlap": "@overlap",
    }
    pred = {"type": "image", "format": "magnitude"}
    _write(folder, 1, inferer, pred, {"modality": ["MR"]}, {})
    state = {"weight": torch.full((1, 1, 1, 1, 1), 1.5), "bias": torch.tensor([0.25])}
    torch.save(state, folder / "models" / "model.pt")
    return folder


def make_refiner(folder: Path) -> Path:
    """A bundle that lays thick slices on a grid of 1 mm, by a network that leaves planes as they are."""
    inferer = {"_target_": "medvit.inference.ThroughPlaneRestorer", "roi_size": [None, None]}
    pred = {"type": "image", "format": "magnitude"}
    _write(folder, 1, inferer, pred, {"modality": ["MR"], "restoration": "super-resolved"}, {})
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 4, "out_channels": 1, "kernel_size": 1}
    config |= {"spacing": 1.0, "network_def": network}
    config["preprocessing"] = {
        "_target_": "medvit.transforms.prepare_thick_slices",
        "keys": "image", "limits": [0.0, 1e9], "spacing": "@spacing",
    }  # fmt: skip
    file.write_text(json.dumps(config))
    state = {"weight": torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1, 1), "bias": torch.zeros(1)}
    torch.save(state, folder / "models" / "model.pt")
    return folder


def _write(
    folder: Path, channels: int, inferer: dict, pred: dict, facts: dict, metadata: dict[str, Any]
) -> None:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    image = {"type": "image", "spatial_shape": ["12*n", "12*n", "12*n"], "num_channels": 1}
    described = {
        "version": "1.0.0",
        "name": folder.name,
        "task": "Tests",
        "description": "Tests",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "medvit": facts,
        **metadata,
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(described))
    (folder / "configs" / "inference.json").write_text(json.dumps(_inference(channels, inferer, str(folder))))


def _inference(channels: int, inferer: dict, root: str) -> dict[str, Any]:
    load = {"_target_": "medvit.transforms.LoadStudyd", "keys": "image"}
    sides = [["L", "R"], ["P", "A"], ["I", "S"]]
    orient = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": sides}
    packages = ("networks", "runs", "studies")
    return {
        "imports": [*(f"$from medvit import {package}" for package in packages), "$import torch"],
        "bundle_root": root,
        "input": [],
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cpu')",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "overlap": 0.25,
        "displayable_configs": {"overlap": "@overlap"},
        "network_def": {
            "_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": channels, "kernel_size": 1
        },
        "network": "$networks.load_weights(@network_def, @checkpoint, @device)",
        "preprocessing": {"_target_": "Compose", "transforms": [load, orient] if channels > 1 else [load]},
        "datalist": "$studies.find_studies(@input)",
        "dataset": {
            "_target_": "medvit.runs.StudyDataset", "data": "@datalist", "transform": "@preprocessing"
        },
        "dataloader": {
            "_target_": "ThreadDataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0,
            "collate_fn": "$lambda items: items[0]",
        },
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": []},
        "writer": {
            "_target_": "medvit.runs.StudyWriter", "output_dir": "@output_dir",
            "bundle_root": "@bundle_root", "checkpoint": "@checkpoint",
            "options": {"_target_": "medvit.runs.ResultOptions", "report": False},
        },
        "evaluator": {
            "_target_": "medvit.runs.StudyEvaluator", "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
            "writer": "@writer",
        },
        "initialize": [],
        "run": ["$runs.finish(runs.run_studies(@evaluator, @dataset, @output_dir))"],
    }  # fmt: skip
