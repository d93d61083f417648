"""The gate before inference: checks a study's headers and values against the scope of a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medvit.bundles.find import Bundle
from medvit.errors import StudyError
from medvit.studies.check import check_study
from medvit.studies.study import LoadedStudy, Study

AnyStudy = TypeVar("AnyStudy", bound=Study)

#: How the note begins that marks every output of a study that was let through.
FORCED = "Forced through the gate: "

# Values of air in Hounsfield units, and a share of such voxels that no MR image reaches by chance.
_AIR_HU, _AIR_SHARE = (-1100.0, -900.0), 0.01
_NEGATIVE = -200.0
# A head without air around it: the quartiles of brain in Hounsfield units, and bone far above.
_BRAIN_HU, _BRAIN_SPREAD, _BONE_HU = (20.0, 55.0), 15.0, 150.0
# Share of voxels of one value from which an image shows nothing; a brain in the widest field has 1 % left.
_BLANK_SHARE = 0.999
# Words by which DICOM's Body Part Examined and descriptions name a body part.
_BODY_PARTS = (
    "ABDOMEN", "ANKLE", "ARM", "BLADDER", "BRAIN", "BREAST", "CARDIAC", "CHEST", "CSPINE", "ELBOW",
    "EXTREMITY", "FOOT", "HAND", "HEAD", "HEART", "HIP", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE",
    "LUMBAR", "LUNG", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "SHOULDER", "SKULL", "SPINE", "THIGH",
    "THORAX", "TSPINE", "UTERUS", "WRIST",
)  # fmt: skip


@dataclass(frozen=True)
class Scope:
    """The scope of a bundle, as its metadata states it under ``medvit``; empty fields are not checked.

    Parameters
    ----------
    modality
        DICOM modalities.
    body_parts
        Words of DICOM's Body Part Examined.
    field_of_view_mm
        Shortest and longest plausible edge of the field of view; shorter ones are noted, longer ones refused.
    coarsest_mm
        Longest voxel edge that is accepted.
    coarsest_pixel_mm
        Limit of the second-longest edge: where two edges are longer, pixels are coarse in slices of any
        direction.
    finest_mm, finest_pixel_mm
        Least length of the longest and of the second-longest edge, for bundles that make voxels finer.
    """

    modality: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    field_of_view_mm: tuple[float, float] = (0.0, np.inf)
    coarsest_mm: float = np.inf
    coarsest_pixel_mm: float = np.inf
    finest_mm: float = 0.0
    finest_pixel_mm: float = 0.0

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Scope:
        """The scope in a bundle's entry for medvit."""
        stated = facts.get("scope", {})
        shortest, longest = stated.get("field_of_view_mm", (0.0, np.inf))
        return cls(
            tuple(facts.get("modality", ())),
            tuple(stated.get("body_parts", ())),
            (float(shortest), float(longest)),
            float(stated.get("coarsest_mm", np.inf)),
            float(stated.get("coarsest_pixel_mm", np.inf)),
            float(stated.get("finest_mm", 0.0)),
            float(stated.get("finest_pixel_mm", 0.0)),
        )


@dataclass
class Gate:
    """Refuses a blank study or one outside a bundle's scope, or marks it if the refusal is overruled.

    Parameters
    ----------
    bundle_root
        Folder of the bundle, whose metadata states its scope.
    force
        Let every study through, with a note that begins with `FORCED`.
    """

    bundle_root: str | Path
    force: bool = False
    scope: Scope = field(init=False)

    def __post_init__(self) -> None:
        self.scope = Scope.of(Bundle(Path(self.bundle_root)).facts)

    def __call__(self, study: AnyStudy) -> AnyStudy:
        """Check `study` against the scope by its headers and, once they are read, its values.

        Raises
        ------
        StudyError
            If the study shows nothing, or is known to lie outside the bundle's scope.
        """
        if forced_reason(study):
            return study
        blank = blankness(study.image.numpy()) if isinstance(study, LoadedStudy) else ""
        reason = blank or next(mismatches(self.scope, study), "")
        notes = list(_doubts(self.scope, study)) if isinstance(study, LoadedStudy) else []
        if reason and not self.force:
            code, do = ("blank", "export it again") if blank else ("outside-scope", "choose another bundle")
            do = f"{do}, or force it (--force, in Python force=True), which marks every output"
            raise StudyError(code, reason, path=study.path if study.series[0].paths else None, do=do)
        if reason:
            notes.append(f"{FORCED}{reason}")
        return replace(study, notes=(*study.notes, *notes))


def forced_reason(study: Study) -> str:
    """Why the gate refused a study that was forced through it; empty for any other."""
    return next((note.removeprefix(FORCED) for note in study.notes if note.startswith(FORCED)), "")


def blankness(image: np.ndarray) -> str:
    """Why an image shows nothing, as a clause; empty for any other.

    Parameters
    ----------
    image
        Channels first.
    """
    for number, values in enumerate(image, 1):
        counts = {value: np.count_nonzero(values == value) for value in {float(values.min()), 0.0}}
        common, count = max(counts.items(), key=itemgetter(1))
        if count > _BLANK_SHARE * values.size:
            voxels = "every voxel" if count == values.size else "nearly every voxel"
            where = f" of channel {number}" if len(image) > 1 else ""
            return f"shows nothing: {voxels}{where} has the value {common:g}"
    return ""


def mismatches(scope: Scope, study: Study) -> Iterator[str]:
    """Each reason for which a study is known to lie outside a scope, as a clause."""
    facts = study.series[0].facts
    modality = str(facts.get("modality") or "")
    wanted = " or ".join(scope.modality)
    if modality and scope.modality and modality not in scope.modality:
        yield f"is {modality}, and the bundle is for {wanted}"
    yield from _other_body_part(scope, facts)
    yield from _field_of_view(scope, study)
    if isinstance(study, LoadedStudy) and not modality:
        yield from _values(scope, study.image[0].numpy(), wanted)


def _other_body_part(scope: Scope, facts: Mapping[str, Any]) -> Iterator[str]:
    """The body part in the headers, or in their descriptions if the headers name none."""
    if not scope.body_parts:
        return
    stated = str(facts.get("body_part") or "")
    described = " ".join(str(facts.get(name) or "") for name in ("series_description", "study_description"))
    words = set(re.findall(r"[A-Z]+", (stated or described).upper()))
    if words & {*scope.body_parts}:
        return
    others = sorted(words & {*_BODY_PARTS} - {*scope.body_parts})
    if others:
        where = "body part" if stated else "description"
        yield f"has {others[0]} as its {where}, and the bundle is for the {scope.body_parts[0].lower()}"


def _field_of_view(scope: Scope, study: Study) -> Iterator[str]:
    shape, spacing = _grid(study)
    if shape is None or spacing is None:
        return
    longest = max(n * mm for n, mm in zip(shape, spacing, strict=True))
    thinnest = min(n * mm for n, mm in zip(shape, spacing, strict=True))
    part = scope.body_parts[0].lower() if scope.body_parts else "study"
    yield from _voxel_size(scope, *sorted(spacing)[:-3:-1])
    if min(shape) == 1 and thinnest < scope.field_of_view_mm[0]:
        yield "is a single slice, and the bundle needs a volume"
    if longest > scope.field_of_view_mm[1]:
        yield (
            f"is {longest:.0f} mm long, and a {part} is scanned within {scope.field_of_view_mm[1]:g} mm: "
            "another body part, or a wrong voxel size"
        )


def _voxel_size(scope: Scope, voxel: float, pixel: float) -> Iterator[str]:
    """The longest edge of a voxel and the second-longest one, in mm."""
    if voxel > scope.coarsest_mm:
        yield (
            f"has voxels of {voxel:.4g} mm, and the bundle needs {scope.coarsest_mm:g} mm or less; "
            "the header may state another unit"
        )
    elif pixel > scope.coarsest_pixel_mm:
        yield f"has pixels of {pixel:.4g} mm, and the bundle needs {scope.coarsest_pixel_mm:g} mm or less"
    elif voxel < scope.finest_mm:
        yield (
            f"has voxels of {voxel:.4g} mm, and the bundle makes those of {scope.finest_mm:g} mm "
            "or more finer"
        )
    elif pixel < scope.finest_pixel_mm:
        yield (
            f"has pixels of {pixel:.4g} mm, and the bundle makes those of {scope.finest_pixel_mm:g} mm "
            "or more finer"
        )


def _doubts(scope: Scope, study: LoadedStudy) -> Iterator[str]:
    """Remarks on a study that is let through."""
    shortest = min(n * mm for n, mm in zip(study.grid.shape, study.grid.spacing, strict=True))
    if min(study.grid.shape) > 1 and shortest < scope.field_of_view_mm[0]:
        yield f"The field of view is only {shortest:.0f} mm in one direction, which shows a part of the head."


def _grid(study: Study) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    if isinstance(study, LoadedStudy):
        return study.grid.shape, study.grid.spacing
    header = check_study(study)
    return header.shape, header.spacing


def _values(scope: Scope, image: np.ndarray, wanted: str) -> Iterator[str]:
    """Mismatches that the values show in a study whose headers state no modality."""
    finite = image[np.isfinite(image)]
    if not finite.size or not scope.modality:
        return
    if "CT" not in scope.modality and _is_hounsfield(finite):
        yield f"has the values of a CT in Hounsfield units, and the bundle is for {wanted}"
    if scope.modality == ("CT",) and finite.min() >= 0:
        yield (
            f"has no value below {finite.min():g}, so it is not a CT in Hounsfield units, "
            "which the bundle is for"
        )


def _is_hounsfield(values: np.ndarray) -> bool:
    """Whether values are those of a CT: air around a body, or a brain with bone and nothing around it."""
    air = np.mean((values > _AIR_HU[0]) & (values < _AIR_HU[1]))
    if values.min() < _NEGATIVE and air > _AIR_SHARE:
        return True
    tissue = values[values != 0]
    if not tissue.size or tissue.max() < _BONE_HU:
        return False
    low, high = np.percentile(tissue, (25, 75))
    return bool(low > _BRAIN_HU[0] and high < _BRAIN_HU[1] and high - low < _BRAIN_SPREAD)
