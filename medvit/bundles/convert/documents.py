"""What a converted bundle says of itself: metadata, a page to read, and whose weights these are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from medvit import __version__
from medvit.bundles.convert.settings import Conversion
from medvit.studies.labels import parse_label_table

INTENDED_USE = "Research and teaching. Not a medical device; not for diagnosis or treatment."
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
PAPERS = {
    "SegFormer3D": "Perera, Navard, Yilmaz: SegFormer3D, CVPR workshops 2024, arXiv 2404.10156",
    "SwinUNETR": "Hatamizadeh et al.: Swin UNETR, 2022, arXiv 2201.01266",
    "TransUNet": "Chen et al.: TransUNet, 2021, arXiv 2102.04306",
    "ParaTransCNN": "Sun, Xu, Duan: ParaTransCNN, 2024, arXiv 2401.15307",
    "DFormer": "Wu et al.: D-Former, Neural Computing and Applications 2022, arXiv 2201.00462",
    "MambaClinix": "Bian et al.: MambaClinix, 2024, arXiv 2409.12533",
    "XLSTMUNet": "Chen et al.: xLSTM-UNet, 2024, arXiv 2407.01530",
}


def metadata(conversion: Conversion, name: str, weights_sha256: str) -> dict[str, Any]:
    """Content of ``configs/metadata.json``, for the model zoo's schema of July 2024."""
    found, table = conversion.found, parse_label_table(conversion.labels)
    computed_tomography = conversion.settings.intensity.startswith("window")
    regions = bool(conversion.settings.paint_order)
    channels = {str(s.value - 1): s.name for s in table} if regions else table.channel_def
    structures = ", ".join(s.name for s in table)
    modality = "CT" if computed_tomography else "n/a"
    window = conversion.roi[-found.spatial_dims :]
    return {
        **first_version(f"converted from {conversion.checkpoint.name}"),
        "name": f"{name} ({found.target})",
        "task": f"Segmentation of {structures}",
        "description": f"Published weights of {found.target}, converted from {conversion.checkpoint.name}.",
        "authors": "The authors of the weights",
        "copyright": "Copyright of the weights: their authors; see LICENSE",
        "intended_use": INTENDED_USE,
        "references": [PAPERS[found.target]],
        "network_data_format": {
            "inputs": {"image": tensor_format("magnitude", modality, window, _images(conversion))},
            "outputs": {"pred": tensor_format("segmentation", modality, window, channels)},
        },
        "medvit": {
            "labels": conversion.labels,
            "modality": ["CT"] if computed_tomography else [],
            "quality": "not measured",
            "weights_sha256": weights_sha256,
        },
    }


def first_version(change: str) -> dict[str, Any]:
    """What the metadata says of a new bundle's version, and the software that it was made with."""
    packages = {package: version(package) for package in ("monai", "torch", "numpy")}
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": change},
        "monai_version": packages["monai"],
        "pytorch_version": packages["torch"],
        "numpy_version": packages["numpy"],
        "required_packages_version": {"medvit": __version__},
    }


def tensor_format(
    kind: str, modality: str, window: Sequence[int], channels: dict[str, str]
) -> dict[str, Any]:
    """The metadata of a network's input or output: windows of so many voxels with these channels."""
    return {
        "type": "image",
        "format": kind,
        "modality": modality,
        "num_channels": len(channels),
        "spatial_shape": list(window),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": channels,
    }


def _images(conversion: Conversion) -> dict[str, str]:
    """The images of a study, by channel."""
    count = conversion.found.arguments["in_channels"]
    names = conversion.settings.channels or [f"image {i}" for i in range(count)]
    return {str(i): name for i, name in enumerate(names)}


def readme(conversion: Conversion, name: str, checkpoint_sha256: str) -> str:
    """Content of ``docs/README.md``: whence the weights, what was told and what taken for granted."""
    found, settings = conversion.found, conversion.settings
    size = " x ".join(map(str, conversion.roi))
    grid = (
        f"slices resized to {conversion.roi[1]} x {conversion.roi[2]}"
        if conversion.spacing is None
        else f"{' x '.join(f'{mm:g}' for mm in conversion.spacing)} mm, windows of {size}"
    )
    assumed = "".join(f"- {sentence}\n" for sentence in found.assumed) or "- nothing\n"
    return f"""# {name}

Published weights of {found.target}, converted by medvit {__version__}. Their quality in this pipeline has
not been measured: compare it with the published figures before relying on it.

Run it: `medvit run ./{name} STUDY -o OUT --trust`

| | |
| --- | --- |
| checkpoint | `{conversion.checkpoint.name}`, SHA-256 `{checkpoint_sha256}` |
| paper | {PAPERS[found.target]} |
| axes of the array run to | {settings.orientation} |
| grid | {grid} |
| images | {", ".join(_images(conversion).values())} |
| intensities | {settings.intensity} |
| structures | {", ".join(s.name for s in parse_label_table(conversion.labels))} |

Taken for granted, since the weights do not tell:

{assumed}
The network:

```json
{json.dumps(found.arguments, indent=2)}
```
"""


def licence_note(conversion: Conversion, checkpoint_sha256: str) -> str:
    """Content of ``LICENSE``."""
    return f"""The weights in models/model.pt are those of the checkpoint {conversion.checkpoint.name}
(SHA-256 {checkpoint_sha256}), in another layout.
They belong to their authors and stay under the licence under which the authors published them; converting
them grants no right to them. Ask that licence before you use them or pass them on.

The configuration and documentation in this folder: Apache License 2.0.
"""
