"""The studies of a pre-training: prepared for the network, kept on disk, and divided by patient."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.transforms import Compose
from rich.console import Console

from medvit.bundles import Bundle, open_bundle
from medvit.bundles.convert.configuration import preprocessing
from medvit.bundles.gate import Scope
from medvit.datasets.splits import drawn_patients, patient_of
from medvit.errors import MedvitError
from medvit.studies import Found, find_studies, read_study
from medvit.studies.channels import SYNONYMS, canonical, split_channel, stem_of
from medvit.studies.formats import read_header
from medvit.studies.study import Study
from medvit.training.base import Recipe
from medvit.training.case_facts import CaseFacts, upright
from medvit.training.choices import Triple
from medvit.training.plan import across_slices, median_spacing

LEAST_STUDIES = 5
_LABEL_VALUES = 64
_NAMED = 20  # files that are not studies
_CONTRASTS = frozenset(words[0] for words in SYNONYMS)
_CT_WINDOW = "window:-1000:1000"  # in HU, as Swin UNETR's authors pre-train


@dataclass(frozen=True)
class Preparation:
    """The studies that were found, and how they become arrays.

    Parameters
    ----------
    transform
        From ``{"image": LoadedStudy}`` to a tensor (C, X, Y, Z) under ``"image"``.
    spacing
        Spacing in mm that it makes; ``None`` if it is not stated.
    slice_axis
        Axis across the slices that networks over slices see.
    modality
        Modalities that are accepted; empty for all.
    made_for
        Name of the bundle that accepts them.
    shape
        Median shape of the studies in voxels of that spacing; ``None`` where it is not needed.
    """

    found: Found
    transform: Callable[[dict[str, Any]], Mapping[str, Any]]
    spacing: list[float] | None
    slice_axis: int = 2
    modality: tuple[str, ...] = ()
    made_for: str = ""
    shape: tuple[int, ...] | None = None

    @classmethod
    def of_bundle(
        cls,
        bundle: Bundle,
        inputs: Sequence[str],
        recipe: Recipe | None = None,
        spacing: Triple | None = None,
    ) -> Preparation:
        """As a bundle does it; a recipe may state another spacing and another last scaling of intensities."""
        wanted = list(spacing) if spacing else recipe.spacing if recipe else None
        opened = open_bundle(bundle, input=list(inputs), **({"spacing": wanted} if wanted else {}))
        dataset, transform = opened.part("dataset"), opened.part("preprocessing")
        if recipe and recipe.scaling:
            scaling = ConfigParser({"scaling": recipe.scaling}).get_parsed_content("scaling")
            transform = Compose([transform, scaling])
        stated = wanted or opened.stated("spacing")
        return cls(
            dataset.found, transform, list(stated) if isinstance(stated, list) else None,
            getattr(opened.part("inferer"), "slice_axis", 2), Scope.of(bundle.facts).modality, bundle.name,
        )  # fmt: skip

    @classmethod
    def of_network(cls, inputs: Sequence[str], slicewise: bool, spacing: Triple | None = None) -> Preparation:
        """As `medvit train` prepares studies for a network by name, but for CT, whose labels it lacks."""
        found = find_studies(list(inputs))
        facts = list(_facts(found))
        spacing = spacing or (median_spacing(facts) if facts else (1.0, 1.0, 1.0))
        modalities = {study.series[0].facts.get("modality") for study in found.studies}
        words = _CT_WINDOW if modalities == {"CT"} else "percentile"
        steps = preprocessing(spacing, "RAS", words)
        config = {"image_key": "image", "spacing": list(spacing), "steps": steps}
        transform = Compose(ConfigParser(config).get_parsed_content("steps"))
        axis = across_slices(slicewise, spacing)
        shapes = [np.array(one.shape) * one.spacing / spacing for one in facts]
        shape = tuple(max(round(n), 1) for n in np.median(shapes, axis=0).tolist()) if shapes else None
        return cls(found, transform, list(spacing), 2 if axis is None else axis, shape=shape)


def _facts(found: Found) -> Iterator[CaseFacts]:
    """Shape and spacing of the studies whose headers can be read."""
    for study in found.studies:
        try:
            shape, spacing = upright(read_header(study.series[0]).grid)
        except MedvitError:
            continue  # named when the study is read
        yield CaseFacts(study.id, shape, spacing, frozenset(), np.empty((1, 0)))


@dataclass(frozen=True)
class PreparedImages:
    """Volumes on disk, with their digest, patient and modality."""

    files: list[Path]
    digests: list[str]
    patients: list[str]
    modality: str

    @property
    def digest(self) -> str:
        """Digest of all volumes, whatever their order."""
        return hashlib.sha256("\n".join(sorted(self.digests)).encode()).hexdigest()

    def split(self, fraction: float, seed: int) -> tuple[list[Path], list[Path]]:
        """Files to train on and to watch; no patient is in both."""
        watched = drawn_patients(self.patients, fraction, seed)
        both = list(zip(self.files, self.patients, strict=True))
        return [f for f, p in both if p not in watched], [f for f, p in both if p in watched]


def prepare_images(preparation: Preparation, folder: Path, console: Console) -> PreparedImages:
    """The studies as arrays in a folder; files that are unsuitable for learning are left out and named.

    Raises
    ------
    MedvitError
        If the studies mix modalities or contrasts, or fewer than five are left.
    """
    _name_left_out(preparation.found, console)
    files: list[Path] = []
    digests: list[str] = []
    patients: list[str] = []
    modalities: dict[str, str] = {}
    contrasts: dict[str, str] = {}
    for study in preparation.found.studies:
        array = _array(study, preparation, console)
        if array is None:
            continue
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        if digest in digests:
            console.print(f"left out: {study.id}: the same image as another study", markup=False)
            continue
        file = folder / f"{len(files)}.npy"
        np.save(file, array)
        files.append(file)
        digests.append(digest)
        patients.append(_patient(study))
        if modality := study.series[0].facts.get("modality"):
            modalities.setdefault(str(modality), study.id)
        if contrast := contrast_of(study):
            contrasts.setdefault(contrast, study.id)
    for what, found in (("modalities", modalities), ("contrasts", contrasts)):
        if len(found) > 1:
            examples = ", ".join(f"{word} ({study})" for word, study in sorted(found.items()))
            raise MedvitError(f"the studies mix {what}: {examples}; pre-train on one at a time")
    if len(files) < LEAST_STUDIES:
        raise MedvitError(
            f"{len(files)} usable studies are too few to learn from; give at least {LEAST_STUDIES}"
        )
    return PreparedImages(files, digests, patients, next(iter(modalities), ""))


def _patient(study: Study) -> str:
    """Who was examined: by the header, or else by a file name of a form that names patients."""
    if known := study.patient.get("id"):
        return str(known)
    name = split_channel(stem_of(study.path))[0]
    patient = patient_of(name)
    return patient if patient != name or name.startswith("sub-") else study.id


def _name_left_out(found: Found, console: Console) -> None:
    for refused in found.refused:
        console.print(f"left out: {refused.error}", markup=False, soft_wrap=True)
    for one in found.left_out[:_NAMED]:
        console.print(f"left out: {one.path.name}: {one.why}", markup=False, soft_wrap=True)
    if len(found.left_out) > _NAMED:
        console.print(f"left out: {len(found.left_out) - _NAMED} more files", highlight=False)


def contrast_of(study: Study) -> str:
    """The contrast of a study with one image, by the name of its file or series; empty if none is named.

    Examples
    --------
    >>> from medvit.studies.study import Series
    >>> contrast_of(Study("a", (Series((Path("sub-01_T1w.nii.gz"),), "nifti"),)))
    't1n'
    >>> contrast_of(Study("a", (Series((), "dicom", {"series_description": "Ax T2 FLAIR"}),)))
    't2f'
    """
    if len(study.series) != 1:
        return ""
    series = study.series[0]
    if series.format != "dicom":
        named = split_channel(stem_of(series.paths[0]))[1] or ""
        return named if named in _CONTRASTS else ""
    text = series.facts.get("series_description") or series.facts.get("protocol") or ""
    words = {canonical(word) for word in re.split(r"[^A-Za-z0-9]+", str(text))} & _CONTRASTS
    if "t2f" in words:
        words.discard("t2w")
    if words == {"t1n"} and series.facts.get("contrast"):
        return "t1c"
    return words.pop() if len(words) == 1 else ""


def _array(study: Study, preparation: Preparation, console: Console) -> np.ndarray | None:
    modality = study.series[0].facts.get("modality")
    try:
        if modality and preparation.modality and modality not in preparation.modality:
            reason = f"is {modality}; {preparation.made_for} is for {' or '.join(preparation.modality)}"
        else:
            loaded = read_study(study)
            reason = _why_unfit(loaded.image.numpy())
        if not reason:
            array = preparation.transform({"image": loaded})["image"].numpy().astype(np.float16)
            if reason := _why_unfit(array, label_maps=False):
                reason += " once it is prepared"
            else:
                return array
    except MedvitError as error:
        reason = str(error)
    console.print(f"left out: {study.id}: {reason}", markup=False, soft_wrap=True)
    return None


def _why_unfit(values: np.ndarray, label_maps: bool = True) -> str:
    """Why an image cannot be learned from; empty if it can."""
    if not np.isfinite(values).all():
        return "holds values that are not numbers"
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"is constant ({low:g} everywhere)"
    sample = values.reshape(-1)[:: max(values.size // 200_000, 1)]
    if label_maps and np.array_equal(sample, np.round(sample)) and len(np.unique(sample)) < _LABEL_VALUES:
        return f"looks like a label map: {len(np.unique(sample))} whole values"
    return ""
