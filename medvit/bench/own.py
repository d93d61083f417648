"""A user's own studies with label maps, as studies of the bench."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.bench.studies import BenchStudy, Reference
from medvit.errors import MedvitError, StudyError
from medvit.evaluation.pairing import study_name
from medvit.evaluation.structures import ScoredStructure, regions_beside
from medvit.studies.channels import split_channel, stem_of, why_not_an_image
from medvit.studies.discover import find_studies
from medvit.studies.files import safe_name
from medvit.studies.formats import IMAGE_SUFFIXES, read_label_map
from medvit.studies.labels import LabelTable

if TYPE_CHECKING:
    from medvit.datasets import Case

GROUP = "own studies"


@dataclass(frozen=True)
class LabelledCase:
    """An image with its label map; `named` are the structures of the label map, empty if not stated."""

    id: str
    image: Path
    label: Path
    named: tuple[ScoredStructure, ...] = ()

    def checked_image(self) -> Path:
        """The image.

        Raises
        ------
        StudyError
            If it is not one image in one file.
        """
        if not self.image.is_file() or len(find_studies(self.image).studies) != 1:
            do = "convert the study to NIfTI, NRRD or MetaImage"
            raise StudyError("not-one-image", "is not one image in one file", path=self.image, do=do)
        return self.image


def own_studies(table: LabelTable, data: Path) -> list[BenchStudy]:
    """Studies with label maps from a manifest or a folder.

    A manifest (`medvit.datasets`) says what the values of its label maps mean; structures that `table` does
    not have are not compared. In a folder without ``dataset.json``, label maps belong to images by their
    names (``case.nii.gz`` and ``case_seg.nii.gz``, or ``imagesTr/case_0000.nii.gz`` and
    ``labelsTr/case.nii.gz``), and their values are those of `table` unless a ``.json`` beside them names them
    (`medvit.evaluation.read_regions`). Images without a label map are skipped. A structure that none of
    the label maps has is not compared.

    Raises
    ------
    MedvitError
        If there is no pair, a study has several label maps, or the manifest requires several images per
        study.
    StudyError
        If a label map cannot be read, or has values without a meaning, or an image is not one file.
    """
    if not data.exists():
        raise MedvitError(f"{data}: does not exist; give a manifest, or a folder of images and label maps")
    of_manifest = data.is_file() or (data / "dataset.json").is_file()
    cases = list(_listed(data, table) if of_manifest else paired_cases(data))
    if not cases:
        raise MedvitError(f"{data}: no image here has a label map of its name, such as NAME_seg.nii.gz")
    values = [read_label_map(case.label).values for case in cases]
    named = [
        case.named or _named(case.label, table, there) for case, there in zip(cases, values, strict=True)
    ]
    drawn = {
        r.name for regions, there in zip(named, values, strict=True) for r in regions if there & {*r.values}
    }
    return [
        _study(case, [r for r in regions if r.name in drawn], table)
        for case, regions in zip(cases, named, strict=True)
    ]


def _study(case: LabelledCase, drawn: list[ScoredStructure], table: LabelTable) -> BenchStudy:
    found = tuple(ScoredStructure(r.name, (table.by_name[r.name].value,)) for r in drawn)
    reference = Reference(GROUP, case.label, found, tuple(drawn))
    return BenchStudy(f"own_{safe_name(case.id)}", case.checked_image(), (reference,))


def _listed(manifest_path: Path, table: LabelTable) -> Iterator[LabelledCase]:
    from medvit.datasets import find_cases, read_manifest

    manifest = read_manifest(manifest_path)
    labels = manifest.labels or ()
    named = tuple(
        ScoredStructure(s.name, (value,))
        for s, value in zip(labels, manifest.values, strict=True)
        if s.name in table.by_name
    )
    if not named:
        raise MedvitError(f"{manifest_path}: does not name any structure of the label table {table.name!r}")
    for case in find_cases(manifest, manifest.path.parent):
        if case.label is None:
            continue
        yield LabelledCase(case.id, single_image(case, manifest_path), case.label, named)


def single_image(case: Case, manifest_path: Path) -> Path:
    """The only image of a case of a manifest.

    Raises
    ------
    MedvitError
        If the case has several images.
    """
    if len(case.images) != 1:
        raise MedvitError(f"{manifest_path}: {case.id} has {len(case.images)} images; the bench takes one")
    return case.images[0]


def paired_cases(folder: Path) -> Iterator[LabelledCase]:
    """The images of a folder that have a label map of their name.

    Raises
    ------
    MedvitError
        If a study has several label maps.
    """
    label_maps: dict[str, Path] = {}
    files = [p for p in sorted(folder.rglob("*")) if p.name.lower().endswith(IMAGE_SUFFIXES)]
    for path in (p for p in files if why_not_an_image(p.relative_to(folder))):
        name = study_name(path)
        if name in label_maps:
            raise MedvitError(
                f"{path}: is one of several label maps of the study {name}; keep only one of them"
            )
        label_maps[name] = path
    for study in find_studies(folder).studies:
        name = stem_of(study.path)
        label = label_maps.get(name) or label_maps.get(split_channel(name)[0])
        if label is not None:
            yield LabelledCase(study.id, study.path, label)


def _named(path: Path, table: LabelTable, values: set[int]) -> tuple[ScoredStructure, ...]:
    """The structures of a label map in the values of `table`, or as the names beside it say."""
    named = regions_beside(path) or tuple(ScoredStructure(s.name, (s.value,)) for s in table)
    named = tuple(r for r in named if r.name in table.by_name)
    unknown = sorted(values - {v for r in named for v in r.values})
    if unknown:
        what = f"has values that are not structures of the table {table.name!r}: {unknown[:10]}"
        do = "name its values in a .json beside it, as docs/evaluate.md says"
        raise StudyError("label-map-values", what, path=path, do=do)
    return named
