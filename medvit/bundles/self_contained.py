"""A bundle for MONAI's model zoo that runs without medvit: TorchScript and MONAI's own components."""

from __future__ import annotations

import json
from typing import Any

from medvit.bundles.workflow import OpenBundle
from medvit.errors import MedvitError

_PREPROCESSING = "medvit.transforms.prepare_head_mr"
_CLEANING = "medvit.transforms.clean_brain_labels"
# Inferers of medvit whose windows MONAI's own inferer lays in the same way, as both blend by a Gaussian.
_INFERERS: dict[str, dict[str, Any]] = {
    "medvit.inference.StreamingWindowInferer": {"_target_": "SlidingWindowInferer"},
    "medvit.inference.SliceInferer": {"_target_": "SliceInferer", "spatial_dim": 2},
}
_ORIENTATION = [["L", "R"], ["P", "A"], ["I", "S"]]
# A function sees no other entry of a configuration, so the spacing comes as a default. The Gaussian is fitted
# to the average over the width of a larger voxel.
_AVERAGE = (
    "$lambda image, spacing={}: monai.transforms.GaussianSmooth("
    "[0.74 * max(wanted / float(present) - 1, 1e-9) ** 0.4 for wanted, present in zip(spacing, image.pixdim)]"
    ")(image)"
)

NOTE = """## Without medvit
This is `{name}` of medvit for MONAI alone: the network in TorchScript, everything else MONAI's own.
`python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir OUT`
segments each `*.nii.gz` of a folder. It leaves out what MONAI has no transform for: the clean-up of specks
within the brain, a second look where labels reach the edge of the crop, the check whether a study is what
the bundle is for, measurements and report.
The figures below were measured with medvit.
"""


def self_contained_files(opened: OpenBundle) -> dict[str, str | bytes]:
    """Content of each file of the variant except those below ``models/``, by its path in the bundle.

    Parameters
    ----------
    opened
        The bundle.

    Raises
    ------
    MedvitError
        If its preprocessing, its inferer or its clean-up cannot be put in MONAI's terms.
    """
    from medvit.bundles.write import to_json

    bundle = opened.bundle
    files: dict[str, str | bytes] = {
        "configs/inference.json": to_json(_inference(opened)),
        "configs/metadata.json": to_json(_metadata(opened)),
    }
    for name in ("LICENSE", "docs/data_license.txt", "configs/logging.conf"):
        if (bundle.path / name).is_file():
            files[name] = (bundle.path / name).read_bytes()
    card = bundle.path / "docs" / "README.md"
    if card.is_file():
        title, _, rest = card.read_text(encoding="utf-8").partition("\n")
        files["docs/README.md"] = f"{title}\n\n{NOTE.format(name=bundle.name)}{rest}"
    return files


def _inference(opened: OpenBundle) -> dict[str, Any]:
    return {
        "imports": ["$import glob", "$import monai", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "image_key": "image",
        "spacing": opened.stated("spacing"),
        "roi_size": opened.stated("roi_size"),
        "overlap": opened.stated("overlap"),
        "sw_batch_size": 1,
        "displayable_configs": {"overlap": "@overlap"},
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location='cpu')",
        "network": "$@network_def.to(@device)",
        "preprocessing": _compose(*_preprocessing(opened)),
        "datalist": "$[{'image': name} for name in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]",
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": _inferer(opened),
        "postprocessing": _compose(*_postprocessing(opened)),
        "handlers": [],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(opened: OpenBundle) -> list[dict[str, Any]]:
    stated = opened.stated("preprocessing")
    if stated.get("_target_") != _PREPROCESSING or opened.stated("bias_correction"):
        raise _refusal(opened, "preprocessing")
    image = {"keys": "@image_key"}
    return [
        {"_target_": "LoadImaged", **image, "ensure_channel_first": True},
        {"_target_": "Orientationd", **image, "axcodes": "RAS", "labels": _ORIENTATION},
        *_at_spacing("@image_key", "@spacing"),
        {
            "_target_": "ScaleIntensityRangePercentilesd", **image,
            "lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True,
        },
        *_region(opened),
    ]  # fmt: skip


def _at_spacing(key: str, spacing: str | list[float]) -> list[dict[str, Any]]:
    return [
        {"_target_": "Lambdad", "keys": key, "func": _AVERAGE.format(spacing)},
        {"_target_": "Spacingd", "keys": key, "pixdim": spacing, "mode": "bilinear"},
    ]


def _region(opened: OpenBundle) -> list[dict[str, Any]]:
    """The crop to what is brighter than air, found on a coarse grid, as `ForegroundRegion` makes it."""
    from medvit.inference import ForegroundRegion

    rule = opened.part("inferer").region
    if rule is None:
        return []
    if not isinstance(rule, ForegroundRegion):
        raise _refusal(opened, "inference")
    spacing = opened.part("spacing")
    coarse = [max(rule.spacing, edge) for edge in spacing]
    largest = "monai.transforms.KeepLargestConnectedComponent()"
    bright = f"$lambda image: {largest}(image > {rule.threshold}).float()"
    # Linear interpolation reaches one coarse voxel beyond the centre of the last one found, half of which is
    # its own; the box ends with the first voxel at or beyond the margin.
    margin = [round((rule.margin - c / 2) / edge + 1) for c, edge in zip(coarse, spacing, strict=True)]
    region = {"keys": "region"}
    return [
        {"_target_": "CopyItemsd", "keys": "@image_key", "names": "region"},
        *_at_spacing("region", coarse),
        {"_target_": "Lambdad", **region, "func": bright},
        {"_target_": "ResampleToMatchd", **region, "key_dst": "@image_key", "mode": "bilinear"},
        {
            "_target_": "CropForegroundd", "keys": "@image_key", "source_key": "region",
            "select_fn": "$lambda region: region > 0.01", "margin": margin, "allow_smaller": True,
        },
    ]  # fmt: skip


def _postprocessing(opened: OpenBundle) -> list[dict[str, Any]]:
    table = opened.bundle.label_table
    cleaned = (opened.stated("postprocessing") or {}).get("_target_") == _CLEANING
    if table is None or not cleaned or any(s.value != s.file_value for s in table):
        raise _refusal(opened, "clean-up")
    pred = {"keys": "pred"}
    return [
        {
            "_target_": "Invertd", **pred, "transform": "@preprocessing", "orig_keys": "@image_key",
            "nearest_interp": False, "to_tensor": True,
        },
        {"_target_": "AsDiscreted", **pred, "argmax": True},
        {
            "_target_": "KeepLargestConnectedComponentd", **pred,
            "is_onehot": False, "independent": False, "connectivity": 1,
        },
        {
            "_target_": "SaveImaged", **pred, "output_dir": "@output_dir", "output_postfix": "seg",
            "output_dtype": "uint8", "resample": False, "data_root_dir": "@dataset_dir",
        },
    ]  # fmt: skip


def _inferer(opened: OpenBundle) -> dict[str, Any]:
    stated = opened.stated("inferer")
    own = _INFERERS.get(stated.get("_target_", ""))
    plain = not stated.get("region_labels") and opened.stated("plane") in (None, "axial")
    if own is None or not plain:
        raise _refusal(opened, "inference")
    windows = {"roi_size": "@roi_size", "sw_batch_size": "@sw_batch_size", "overlap": "@overlap"}
    return {**own, **windows, "mode": "gaussian"}


def _metadata(opened: OpenBundle) -> dict[str, Any]:
    metadata = json.loads(json.dumps(opened.bundle.metadata))
    metadata.pop("medvit", None)
    metadata["name"] = metadata.get("name", opened.bundle.zoo_name)
    metadata["required_packages_version"].pop("medvit", None)
    return metadata


def _compose(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(transforms)}


def _refusal(opened: OpenBundle, part: str) -> MedvitError:
    return MedvitError(
        f"the {part} of {opened.bundle.name} cannot be put in MONAI's terms, so it needs medvit to run; "
        "export it with --format bundle"
    )
