"""The one real head available to everybody: the ICBM 2009a T1 template, its tissue maps, and atlases."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Image

from medvit.bench.studies import BenchStudy, Reference, unsided_region
from medvit.errors import MedvitError, MissingExtraError
from medvit.evaluation.structures import ScoredStructure
from medvit.studies.files import write_label_map
from medvit.studies.grids import resample_onto
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid

TISSUES, DEEP = "template, tissues", "template, deep structures"
_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# Structure of the label table to the names that make it up in BigBrain's and the Allen atlas.
_ATLAS_NAMES = {
    "caudate nucleus": r"(Left|Right)-caudate|Ca[HBT]",
    "putamen": r"(Left|Right)-putamen|Pu(PV)?",
    "globus pallidus": r"(Left|Right)-globus-pallidus-(externa|interna)|GP[ei]",
    "thalamus": r"(Left|Right)-thalamus|THM|ANC|LD|MD|Re|LP|Pul|V[AL]|VP[LM]|DLG|MG|CM|Pf|HN",
    "hippocampus": r"(Left|Right)-hippocampus|Hi[HBT]",
    "amygdala": r"(Left|Right)-amygdala|AMY|AAA|CEN|La|B[LM]|Co[AP]|Me|AHA",
    "lateral ventricle": r"[abpix]LV",
}
_WHITE = ("cerebral white matter", "cerebellar white matter", "ventral diencephalon", "brain-stem")
_NEITHER = ("lateral ventricle", "third ventricle", "fourth ventricle", "cerebrospinal fluid")


def template_study(table: LabelTable, folder: Path, atlases: Path | None = None) -> BenchStudy:
    """The ICBM 2009a nonlinear symmetric T1 template with its references.

    Parameters
    ----------
    table
        The label table "brain".
    folder
        Folder for the references on the template's grid.
    atlases
        Folder with ``bigbrain.nii.gz`` or ``AllenAtlas.nii.gz`` in MNI space, each with its ``.json`` of
        label names; other files are ignored.

    Raises
    ------
    MedvitError
        If nilearn, which brings the template, is not installed, or `atlases` holds no atlas.

    References
    ----------
    Fonov et al.: Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54, 2011.
    """
    references = [_tissues(table, folder)]
    if atlases is not None:
        named = [p for p in sorted(atlases.glob("*.nii.gz")) if _names_beside(p).is_file()]
        drawn = [r for path in named if (r := _atlas(path, table, folder)) is not None]
        if not drawn:
            raise MedvitError(f"{atlases}: holds no atlas (NAME.nii.gz with NAME.json); see docs/bench.md")
        references += drawn
    return BenchStudy("icbm_t1", template("t1"), tuple(references))


def template(kind: str) -> Path:
    """The template (``t1``) or its tissue map (``gm``, ``wm``), as they come with nilearn.

    Raises
    ------
    MissingExtraError
        If nilearn is not installed.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the ICBM template", "demo")
    return Path(spec.origin).parent / "datasets" / "data" / _FILE.format(kind)


def _tissues(table: LabelTable, folder: Path) -> Reference:
    """Brain, white and grey matter: each voxel of the template's brain by its likeliest tissue."""
    image = _load(template("t1"))
    grey, white = (np.asarray(_load(template(k)).dataobj, np.float32) / 255 for k in ("gm", "wm"))
    other = np.clip(1 - grey - white, 0, 1)
    labels = np.where(np.asarray(image.dataobj) > 0, 3, 0).astype(np.uint8)
    labels[(grey >= white) & (grey > other)] = 2
    labels[(white > grey) & (white > other)] = 1
    path = write_label_map(folder / "icbm_tissues.nii.gz", labels, _grid(image))
    everything = ScoredStructure("brain", tuple(s.value for s in table))
    found_white, neither = (unsided_region(table, *names).values for names in (_WHITE, _NEITHER))
    rest = tuple(v for v in everything.values if v not in found_white + neither)
    found = (everything, ScoredStructure("white matter", found_white), ScoredStructure("grey matter", rest))
    drawn = (
        ScoredStructure("brain", (1, 2, 3)),
        ScoredStructure("white matter", (1,)),
        ScoredStructure("grey matter", (2,)),
    )
    return Reference(TISSUES, path, found, drawn)


def _atlas(atlas: Path, table: LabelTable, folder: Path) -> Reference | None:
    """The structures of an atlas that the label table has too, both sides as one; `None` if none."""
    image = _load(template("t1"))
    atlas_image = _load(atlas)
    stored = np.asarray(atlas_image.dataobj)
    values = resample_onto(_grid(image), stored, _grid(atlas_image), nearest=True).astype(int)
    names = json.loads(_names_beside(atlas).read_text(encoding="utf-8"))["labels"]
    labels = np.zeros(image.shape, np.uint8)
    drawn: list[ScoredStructure] = []
    for structure, parts in _ATLAS_NAMES.items():
        mask = np.isin(values, [i for i, name in enumerate(names) if re.fullmatch(parts, str(name))])
        if mask.any():
            drawn.append(ScoredStructure(structure, (len(drawn) + 1,)))
            labels[mask] = len(drawn)
    if not drawn:
        return None
    path = write_label_map(folder / f"{_stem(atlas)}.nii.gz", labels, _grid(image))
    return Reference(DEEP, path, tuple(unsided_region(table, r.name) for r in drawn), tuple(drawn))


def _load(path: Path) -> Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, Nifti1Image), "templates and atlases are NIfTI"
    return image


def _grid(image: Nifti1Image) -> Grid:
    x, y, z = image.shape
    return Grid((x, y, z), image.affine)


def _stem(atlas: Path) -> str:
    return atlas.name.removesuffix(".nii.gz")


def _names_beside(atlas: Path) -> Path:
    return atlas.with_name(f"{_stem(atlas)}.json")
