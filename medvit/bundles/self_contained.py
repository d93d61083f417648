"""A bundle for MONAI's model zoo that runs without medvit: TorchScript and MONAI's own components."""

from __future__ import annotations

import json
from typing import Any

from medvit.bundles.workflow import OpenBundle
from medvit.errors import MedvitError

_PREPROCESSING = "medvit.transforms.prepare_head_mr"
# Inferers of medvit whose windows MONAI's own inferer lays in the same way, as both blend by a Gaussian.
_INFERERS: dict[str, dict[str, Any]] = {
    "medvit.inference.StreamingWindowInferer": {"_target_": "SlidingWindowInferer"},
    "medvit.inference.SliceInferer": {"_target_": "SliceInferer", "spatial_dim": 2},
}
_ORIENTATION = [["L", "R"], ["P", "A"], ["I", "S"]]

NOTE = """## Without medvit
This is `{name}` of medvit for MONAI alone: the network in TorchScript, everything else MONAI's own.
`python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir OUT`
segments each `*.nii.gz` of a folder. It leaves out what MONAI has no transform for: the averaging before an
image is made coarser, the search for the part of the image to look at, the clean-up of specks, the
check whether a study is what the bundle is for, measurements and report.
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
        If its preprocessing or its inferer cannot be put in MONAI's terms.
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
        "imports": ["$import glob", "$import torch"],
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
        "postprocessing": _compose(*_POSTPROCESSING),
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
        {"_target_": "Spacingd", **image, "pixdim": "@spacing", "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRangePercentilesd", **image,
            "lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True,
        },
    ]  # fmt: skip


_POSTPROCESSING: tuple[dict[str, Any], ...] = (
    {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "@image_key",
        "nearest_interp": False,
        "to_tensor": True,
    },
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_dtype": "uint8",
        "resample": False,
        "data_root_dir": "@dataset_dir",
    },
)


def _inferer(opened: OpenBundle) -> dict[str, Any]:
    stated = opened.stated("inferer")
    own = _INFERERS.get(stated.get("_target_"))
    if own is None or opened.stated("plane") not in (None, "axial"):
        raise _refusal(opened, "inference")
    windows = {"roi_size": "@roi_size", "sw_batch_size": "@sw_batch_size", "overlap": "@overlap"}
    return {**own, **windows, "mode": "gaussian"}


def _metadata(opened: OpenBundle) -> dict[str, Any]:
    metadata = json.loads(json.dumps(opened.bundle.metadata))
    metadata.pop("medvit", None)
    metadata["name"] = metadata.get("name", opened.bundle.zoo_name)
    metadata["required_packages_version"].pop("medvit", None)
    metadata["required_packages_version"].pop("scikit-image", None)
    return metadata


def _compose(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(transforms)}


def _refusal(opened: OpenBundle, part: str) -> MedvitError:
    return MedvitError(
        f"the {part} of {opened.bundle.name} cannot be put in MONAI's terms, so it needs medvit to run; "
        "export it with --format bundle"
    )
