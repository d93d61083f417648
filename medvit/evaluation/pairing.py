"""Pairing of predictions and references by the name of the study."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from medvit.errors import StudyError
from medvit.studies.channels import stem_of, why_not_an_image
from medvit.studies.done_mark import read_mark
from medvit.studies.files import safe_name
from medvit.studies.formats import IMAGE_SUFFIXES, READABLE, format_of
from medvit.studies.found import LeftOut, Refused

# Code of the failure of a reference that has nothing to be compared with.
NO_PREDICTION = "no-prediction"
# Suffix of nnU-Net for a study's first channel, by which a run may have named its result.
_FIRST_CHANNEL = "_0000"
# The name of every restored image that a run writes.
_RESTORED = "image"


@dataclass(frozen=True)
class Pair:
    """The two label maps of a study."""

    study: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Pairing:
    """What `find_pairs` found.

    Parameters
    ----------
    pairs
        Pairs in the order of their names.
    refused
        References without a prediction, and studies with several label maps on one side.
    left_out
        Files that were found and deliberately not used.
    """

    pairs: tuple[Pair, ...] = ()
    refused: tuple[Refused, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def find_pairs(prediction: Path | str, reference: Path | str, *, images: bool = False) -> Pairing:
    """Pairs label maps, or images, by the names of their studies.

    A label map is known by its file's name without a last word such as ``_seg``, ``-label`` or ``_dseg``; if
    nothing else is left, as of ``labels.nii.gz``, by its folder's. Of a folder in which some files are named
    as label maps, only these are taken; DICOM segmentations are where there is no other label map. Two files
    are a pair whatever their names.

    Parameters
    ----------
    prediction, reference
        Files or folders; folders are searched recursively.
    images
        Pair images, restored ones and their references: what is named as a label map is left out then, and
        ``image.nii.gz``, as a run writes it, is known by its folder.

    Raises
    ------
    StudyError
        If one does not exist, is a file other than NIfTI, NRRD, MetaImage or DICOM segmentation, or both are
        files that cannot be a pair.
    """
    sides = [Path(str(side)) for side in (prediction, reference)]
    if all(side.is_file() for side in sides):
        own, other = (_file(side, images) for side in sides)
        return Pairing((_pair(_id_of(own), own, other),))
    left_out: list[LeftOut] = []
    predictions, references = (_files(side, left_out, images) for side in sides)
    for name in [n for n in predictions if n not in references]:
        bare = name.removesuffix(_FIRST_CHANNEL)
        if bare in references and bare not in predictions:
            predictions[bare] = predictions.pop(name)
        else:
            left_out += [LeftOut(path, "has no reference of its name") for path in predictions[name]]
    pairs, refused = [], []
    for name, theirs in sorted(references.items()):
        ours = predictions.get(name, [])
        if len(ours) == len(theirs) == 1:
            try:
                pairs.append(_pair(name, ours[0], theirs[0]))
            except StudyError as error:
                refused.append(Refused(name, error))
        elif not ours and sides[0].is_file():
            left_out += [LeftOut(path, "is the reference of another study") for path in theirs]
        else:
            refused.append(Refused(name, _fault(name, ours, theirs)))
    # Both sides may be one folder.
    return Pairing(tuple(pairs), tuple(refused), tuple(dict.fromkeys(left_out)))


def _pair(study: str, prediction: Path, reference: Path) -> Pair:
    if prediction.samefile(reference):
        what, do = "is its own reference", "give the predictions first, then the references"
        raise StudyError("same-file", what, path=prediction, do=do)
    for path in (prediction, reference):
        # A run writes some results into subfolders of the study's folder.
        marks = (read_mark(folder) for folder in path.absolute().parents[:2])
        if any(mark is not None and mark.get("void") for mark in marks):
            what = "is a result of an earlier run, and the study failed or was stopped when it was run again"
            raise StudyError("void-result", what, path=path, do="run the study again")
    return Pair(study, prediction, reference)


def study_name(path: Path) -> str:
    """The name of the study that a label map belongs to.

    Examples
    --------
    >>> study_name(Path("BraTS-GLI-00001-000-seg.nii.gz"))
    'BraTS-GLI-00001-000'
    >>> study_name(Path("out/case_07/labels.nii.gz"))
    'case_07'
    """
    stem = stem_of(path)
    head, word = re.fullmatch(r"(?:(.*)[-_.])?(.*)", stem, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    if stem != _RESTORED and not why_not_an_image(Path(word)):
        return stem
    folder = path.absolute().parent
    # Where a run writes its DICOM objects, in the folder of the study.
    return head or (folder.parent if folder.name == "dicom" else folder).name


def _id_of(path: Path) -> str:
    # A run names its folders so.
    return safe_name(study_name(path))


def _files(side: Path, left_out: list[LeftOut], images: bool) -> dict[str, list[Path]]:
    """Label maps, or images, by the names of their studies."""
    if not side.is_dir():
        return {_id_of(side): [_file(side, images)]}
    files = sorted(p for p in side.rglob("*") if p.name.lower().endswith(IMAGE_SUFFIXES) and p.is_file())
    shown = [p for p in files if not any(part.startswith(".") for part in p.relative_to(side).parts)]
    named = {p for p in shown if why_not_an_image(p.relative_to(side))}
    found = defaultdict(list)
    for path in shown:
        if images and path in named:
            left_out.append(LeftOut(path, why_not_an_image(path.relative_to(side))))
        elif named and path not in named and not images:
            left_out.append(LeftOut(path, "is not named as a label map, as others in its folder are"))
        else:
            found[_id_of(path)].append(path)
    if not found and not images:
        for path in filter(_is_segmentation, sorted(side.rglob("*"))):
            found[_id_of(path)].append(path)
    return dict(found)


def _is_segmentation(path: Path) -> bool:
    from medvit.studies.dicom.seg import is_segmentation

    return path.is_file() and format_of(path) == "dicom" and is_segmentation(path)


def _file(path: Path, image: bool) -> Path:
    if not path.is_file():
        raise StudyError("missing-file", "does not exist", path=path, do="check the path")
    if not path.name.lower().endswith(IMAGE_SUFFIXES) and (image or not _is_segmentation(path)):
        what = f"is not {'an image' if image else 'a label map'} that can be compared"
        do = f"give {READABLE}" + ("" if image else ", or a DICOM segmentation")
        raise StudyError("unknown-format", what, path=path, do=do)
    return path


def _fault(name: str, predictions: list[Path], references: list[Path]) -> StudyError:
    if not predictions:
        what, do = "has no prediction of its name", "run the study, or remove its reference"
        return StudyError(NO_PREDICTION, what, path=references[0], do=do)
    several = predictions if len(predictions) > 1 else references
    what = f"is one of {len(several)} label maps of the study {name}"
    return StudyError("several-label-maps", what, path=several[0], do="keep only one of them")
