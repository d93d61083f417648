"""Small data sets that look like the public ones: file names, channels, label values as manifests say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from medvit.datasets import Manifest, read_manifest
from tests.studies.dicom.synthetic import made_up, uid

Shape = tuple[int, int, int]


def write_public(
    name: str, folder: Path, splits: Mapping[str, Sequence[str]], shape: Shape, spacing: Sequence[float]
) -> Path:
    """The named cases of a public data set, and the manifest cut down to them, whose path is returned."""
    manifest = read_manifest(name)
    for split, ids in splits.items():
        for case in ids:
            assert manifest.splits_of(case) == [split]
            _write_case(manifest, folder, case, shape, spacing)
    content = yaml.safe_load(manifest.path.read_text())
    # A split that is the rest of the cases needs no list.
    listed = {split: list(ids) for split, ids in splits.items() if "*" not in manifest.splits[split]}
    content["splits"] = {split: listed.get(split, list(manifest.splits[split])) for split in splits}
    content["split_sizes"] = {split: len(ids) for split, ids in splits.items()}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def write_folds(name: str, folder: Path, count: int, shape: Shape, spacing: Sequence[float]) -> None:
    """Cases of a public data set in two folds, listed as the authors of Swin UNETR do."""
    manifest = read_manifest(name)
    listed = []
    for number in range(count):
        case = f"BraTS2021_{number:05d}"
        _write_case(manifest, folder, case, shape, spacing)
        images = [f"1TrainingData1/{case}/{case}_{channel}.nii.gz" for channel in manifest.channels]
        label = f"1TrainingData1/{case}/{case}_seg.nii.gz"
        listed.append({"fold": number % 2, "image": images, "label": label})
    (folder / "brats21_folds.json").write_text(json.dumps({"training": listed}))


def write_nnunet(folder: Path, structures: int, count: int, shape: Shape, spacing: Sequence[float]) -> None:
    """CT in nnU-Net's layout."""
    values = tuple(range(1, structures + 1))
    for number in range(count):
        label_map = boxes(values, shape, number)
        _save(folder / f"labelsTr/case_{number:03d}.nii.gz", label_map, spacing)
        _save(folder / f"imagesTr/case_{number:03d}_0000.nii.gz", image_of(label_map, number), spacing)
    labels = {"background": 0} | {f"structure {value}": value for value in values}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def write_lesions(folder: Path) -> None:
    """Studies of PI-CAI as picai_prep lays them out, every second one without a lesion."""
    for number in range(5):
        case = f"1000{number}_100000{number}"
        label_map = boxes((1,), (40, 36, 12), number) * (number % 2 == 0)
        _save(folder / f"labelsTr/{case}.nii.gz", label_map.astype(np.uint8), (0.5, 0.5, 3.0))
        for channel in range(3):
            image = image_of(label_map, 3 * number + channel)
            _save(folder / f"imagesTr/{case}_{channel:04d}.nii.gz", image, (0.5, 0.5, 3.0))


def write_pet_pairs(folder: Path, shape: Shape, spacing: Sequence[float]) -> None:
    """Noisy and clean images in SUV, and a manifest of one's own beside them."""
    cases = []
    for number, split in enumerate(("train", "test")):
        clean = np.random.default_rng(number).gamma(2, 2, shape).astype(np.float32)
        noisy = clean + np.random.default_rng(9).normal(0, 1, shape).astype(np.float32)
        _save(folder / f"full_{number}.nii.gz", clean, spacing)
        _save(folder / f"low_{number}.nii.gz", noisy, spacing)
        files = {"image": f"low_{number}.nii.gz", "target": f"full_{number}.nii.gz"}
        cases.append({"id": f"pet{number}", "split": split, **files})
    (folder / "manifest.yaml").write_text(
        yaml.safe_dump({"modality": "PT", "channels": ["pt"], "cases": cases})
    )


def boxes(values: Sequence[int], shape: Shape, seed: int) -> np.ndarray:
    """A label map in which each value fills a box somewhere, the last ones on top."""
    generator = np.random.default_rng(seed)
    label_map = np.zeros(shape, np.uint8)
    for value in values:
        corner = [int(generator.integers(0, max(n - n // 3, 1))) for n in shape]
        label_map[tuple(slice(c, c + max(n // 3, 1)) for c, n in zip(corner, shape, strict=True))] = value
    return label_map


def image_of(label_map: np.ndarray, seed: int) -> np.ndarray:
    """Noise whose mean tells the labels apart, as soft tissue in HU."""
    noise = np.random.default_rng(seed).normal(0, 10, label_map.shape)
    return (30.0 + 15.0 * label_map + noise).astype(np.float32)


def _write_case(manifest: Manifest, folder: Path, case: str, shape: Shape, spacing: Sequence[float]) -> None:
    layout = manifest.layouts[0]
    seed = sum(map(ord, case))

    def place(pattern: str, channel: str = "") -> Path:
        return folder / pattern.replace("{case}", case).replace("{channel}", channel).replace("*", "1")

    if layout.target:
        for pattern, noise in ((layout.images, 40), (layout.target, 0)):
            _write_series(place(pattern), noise)
        return
    label_map = boxes(manifest.values, shape, seed)
    channels = [image_of(label_map, seed + number) for number in range(len(manifest.channels))]
    _save(place(layout.label), label_map, spacing)
    if "{channel}" in layout.images:
        for channel, image in zip(layout.channels or manifest.channels, channels, strict=True):
            _save(place(layout.images, channel), image, spacing)
    else:
        image = np.stack(channels, axis=-1) if len(channels) > 1 else channels[0]
        _save(place(layout.images), image, spacing)


def _write_series(folder: Path, noise: int) -> None:
    """A CT series of DICOM files, with more or less noise."""
    folder.mkdir(parents=True)
    series = made_up()
    series.header.SeriesInstanceUID = uid(folder)
    series.stored = series.stored + np.random.default_rng(0).integers(0, noise + 1, series.stored.shape)
    for number, ds in enumerate(series.datasets()):
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def _save(path: Path, voxels: np.ndarray, spacing: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray) -> str:
    """The path of voxels that were saved as NIfTI."""
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)
