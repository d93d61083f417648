"""The documents of a converted bundle: metadata, a page to read, and the licence of the weights."""

from __future__ import annotations

import json
from typing import Any

from medvit import __version__
from medvit.bundles.convert.settings import Conversion
from medvit.bundles.write import card, first_version
from medvit.studies.labels import parse_label_table

PAPERS = {
    "SegFormer3D": "Perera, Navard, Yilmaz: SegFormer3D, CVPR workshops 2024, arXiv 2404.10156",
    "SwinUNETR": "Hatamizadeh et al.: Swin UNETR, 2022, arXiv 2201.01266",
    "TransUNet": "Chen et al.: TransUNet, 2021, arXiv 2102.04306",
    "ParaTransCNN": "Sun, Xu, Duan: ParaTransCNN, 2024, arXiv 2401.15307",
    "DFormer": "Wu et al.: D-Former, Neural Computing and Applications 2022, arXiv 2201.00462",
    "MambaClinix": "Bian et al.: MambaClinix, 2024, arXiv 2409.12533",
    "XLSTMUNet": "Chen et al.: xLSTM-UNet, 2024, arXiv 2407.01530",
}


def metadata_section(conversion: Conversion, name: str, weights_sha256: str) -> dict[str, Any]:
    """The metadata that the template ``segmentation`` leaves open."""
    found, table = conversion.found, parse_label_table(conversion.labels)
    computed_tomography = conversion.settings.intensity.startswith("window")
    structures = ", ".join(s.name for s in table)
    entries = {
        **first_version(f"converted from {conversion.checkpoint.name}"),
        "name": f"{name} ({found.target})",
        "task": f"Segmentation of {structures}",
        "description": f"Published weights of {found.target}, converted from {conversion.checkpoint.name}.",
        "authors": "The authors of the weights",
        "copyright": "Copyright of the weights: their authors; see LICENSE",
        "references": [PAPERS[found.target]],
        "network_data_format#inputs#image#modality": "CT" if computed_tomography else "n/a",
        "network_data_format#inputs#image#spatial_shape": list(conversion.roi[-found.spatial_dims :]),
        "network_data_format#inputs#image#channel_def": _images(conversion),
        "medvit": {
            "labels": conversion.labels,
            "modality": ["CT"] if computed_tomography else [],
            "quality": "not measured",
            "weights_sha256": weights_sha256,
        },
    }
    if conversion.settings.paint_order:  # regions have no channel for the background
        regions = {str(s.value - 1): s.name for s in table}
        entries["network_data_format#outputs#pred#channel_def"] = regions
    return entries


def _images(conversion: Conversion) -> dict[str, str]:
    """The images of a study, by channel."""
    count = conversion.found.arguments["in_channels"]
    names = conversion.settings.channels or [f"image {i}" for i in range(count)]
    return {str(i): name for i, name in enumerate(names)}


def readme(conversion: Conversion, name: str, checkpoint_sha256: str) -> str:
    """Content of ``docs/README.md``: the origin of the weights, what was stated and what was assumed."""
    found, settings = conversion.found, conversion.settings
    size = " x ".join(map(str, conversion.roi))
    grid = (
        f"slices resized to {conversion.roi[1]} x {conversion.roi[2]}"
        if conversion.spacing is None
        else f"{' x '.join(f'{mm:g}' for mm in conversion.spacing)} mm, windows of {size}"
    )
    facts = {
        "checkpoint": f"`{conversion.checkpoint.name}`, SHA-256 `{checkpoint_sha256}`",
        "paper": PAPERS[found.target],
        "directions of the array axes": settings.orientation,
        "grid": grid,
        "images": ", ".join(_images(conversion).values()),
        "intensities": settings.intensity,
        "structures": ", ".join(s.name for s in parse_label_table(conversion.labels)),
    }
    introduction = f"""Published weights of {found.target}, converted by medvit {__version__}. Their quality
in this pipeline has not been measured: compare it with the published figures before relying on it.

Run it: `medvit run ./{name} STUDY -o OUT --trust`"""
    assumed = "\n".join(f"- {sentence}" for sentence in found.assumed) or "- nothing"
    network = json.dumps(found.arguments, indent=2)
    return card(
        name,
        introduction,
        facts,
        f"## Assumptions\n\nThe weights do not state these, so they were assumed:\n\n{assumed}",
        f"## Network\n\n```json\n{network}\n```",
    )


def licence_note(conversion: Conversion, checkpoint_sha256: str) -> str:
    """Content of ``LICENSE``."""
    return f"""The weights in models/model.pt are those of the checkpoint {conversion.checkpoint.name}
(SHA-256 {checkpoint_sha256}), in another layout.
They belong to their authors and stay under the licence under which the authors published them; converting
them grants no right to them. Consult that licence before you use them or pass them on.

The configuration and documentation in this folder: Apache License 2.0.
"""
