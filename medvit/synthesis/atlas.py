"""Label maps as the generator reads them: tissues to paint and structures to learn, on a 1 mm RAS grid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medvit.errors import StudyError
from medvit.studies.labels import LabelTable, load_label_table


@dataclass(frozen=True)
class Anatomy:
    """Meaning of the labels of an annotated head for the generator.

    Parameters
    ----------
    tissues
        Names of the tissues; a tissue's position is the index that `HeadMap.tissue` holds. The first is the
        background.
    tissue_of, structure_of
        Label value to index of tissue, and to value in `table` (0 where a label is not to be learnt).
    extracerebral
        For each tissue, whether skull stripping removes it.
    fluid
        For each tissue, whether it is the fluid around the brain, which a tight strip removes as well.
    priors
        Contrast name to the mean intensity (0 to 1) of each tissue; NaN where it is drawn at random.
    table
        The structures to learn.
    """

    tissues: tuple[str, ...]
    tissue_of: dict[int, int]
    structure_of: dict[int, int]
    extracerebral: Tensor
    fluid: Tensor
    priors: dict[str, Tensor]
    table: LabelTable


def brain_anatomy() -> Anatomy:
    """FreeSurfer's labels with the extra-cerebral classes of SynthSeg's training maps."""
    content = json.loads((files("medvit.synthesis") / "brain.json").read_text())
    table = load_label_table(content["table"])
    labels = content["labels"]
    tissues = ("background", *dict.fromkeys(entry["tissue"] for entry in labels))
    outside = {entry["tissue"] for entry in labels if entry.get("extracerebral")} | {"background"}
    return Anatomy(
        tissues=tissues,
        tissue_of={0: 0} | {entry["label"]: tissues.index(entry["tissue"]) for entry in labels},
        structure_of={0: 0}
        | {e["label"]: table.by_name[e["structure"]].value if e["structure"] else 0 for e in labels},
        extracerebral=torch.tensor([name in outside for name in tissues]),
        fluid=torch.tensor([name == "cerebrospinal fluid" for name in tissues]),
        priors={
            name: torch.tensor([means.get(tissue, float("nan")) for tissue in tissues])
            for name, means in content["priors"].items()
        },
        table=table,
    )


@dataclass(frozen=True)
class HeadMap:
    """One annotated head.

    Parameters
    ----------
    tissue, structure
        (X, Y, Z) uint8, RAS, 1 mm, cropped to the head with a border of background one voxel wide.
    centre
        Voxel coordinates of the centre of the learnt structures.
    """

    tissue: Tensor
    structure: Tensor
    centre: Tensor

    def to(self, device: torch.device | str) -> HeadMap:
        """The same map on another device."""
        return HeadMap(self.tissue.to(device), self.structure.to(device), self.centre.to(device))


def read_head_map(path: str | Path, anatomy: Anatomy) -> HeadMap:
    """An annotated head from a NIfTI label map of any orientation with 1 mm voxels.

    Raises
    ------
    StudyError
        If the voxels are not 1 mm, `anatomy` does not know a label, or no structure to learn is labelled.
    """
    image = nib.as_closest_canonical(nib.load(path))
    spacing = np.asarray(image.header.get_zooms()[:3])
    if np.abs(spacing - 1).max() > 0.01:
        raise StudyError(
            "label-map-spacing", f"voxels of {spacing.round(3).tolist()} mm", path=path, do="resample to 1 mm"
        )
    values = np.asarray(image.dataobj)
    # Before they become integers, which would make a known label of a fraction.
    present = np.unique(values).tolist()
    unknown = sorted(set(present) - set(anatomy.tissue_of))
    if unknown:
        raise StudyError("label-map-values", f"unknown labels: {unknown[:10]}", path=path)
    labels = values.astype(np.int64)
    if not any(anatomy.structure_of[int(value)] for value in present):
        what = f"holds no structure of the table {anatomy.table.name!r}"
        raise StudyError("label-map-empty", what, path=path, do="leave it out")
    labels = np.pad(labels[tuple(slice(a.min(), a.max() + 1) for a in np.nonzero(labels))], 1)
    tissue, structure = (_look_up(labels, table) for table in (anatomy.tissue_of, anatomy.structure_of))
    centre = torch.nonzero(structure).double().mean(dim=0).float()
    return HeadMap(tissue, structure, centre)


def _look_up(labels: np.ndarray, table: dict[int, int]) -> Tensor:
    values = np.zeros(max(table) + 1, dtype=np.uint8)
    values[list(table)] = list(table.values())
    return torch.from_numpy(values[labels])
