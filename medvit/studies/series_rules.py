"""`SeriesRules`: a bundle's conditions on the DICOM series that it processes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medvit.errors import MedvitError


@dataclass(frozen=True)
class SeriesRules:
    """Conditions on DICOM series; fields that are not set are not checked.

    Parameters
    ----------
    modality
        Accepted modalities, such as ``("MR",)``.
    image_type, not_image_type
        Values of ImageType (0008,0008) of which all, or none, must be present.
    description, not_description
        Regular expressions, letter case ignored, that SeriesDescription must, or must not, contain.
    body_part
        Regular expression, letter case ignored, that BodyPartExamined must contain.
    contrast
        Whether a contrast agent must, or must not, have been given.
    plane
        ``"axial"``, ``"coronal"`` or ``"sagittal"``.
    max_slice_thickness
        Limit in mm for SliceThickness and for the distance between slices.
    min_slices
        Minimum number of slices; a series with fewer is a scout or a key image.
    """

    modality: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    not_image_type: tuple[str, ...] = ()
    description: str = ""
    not_description: str = ""
    body_part: str = ""
    contrast: bool | None = None
    plane: str = ""
    max_slice_thickness: float | None = None
    min_slices: int = 1

    def __post_init__(self) -> None:
        for pattern in (self.description, self.not_description, self.body_part):
            try:
                re.compile(pattern)
            except re.error as error:
                raise MedvitError(f"{pattern!r} is not a regular expression: {error}") from None

    def objection(self, facts: dict[str, Any]) -> str:
        """Why a series with these facts (`Series.facts`) is not wanted; empty if it is."""
        return next(self._objections(facts), "")

    def _objections(self, facts: dict[str, Any]) -> Iterator[str]:
        modality, plane = facts.get("modality", "unknown"), facts.get("plane", "unknown")
        if self.modality and modality not in self.modality:
            yield f"its modality is {modality}"
        types = {value.upper() for value in facts.get("image_type", ())}
        for value in self.image_type:
            if value.upper() not in types:
                yield f"its image type lacks {value}"
        for value in self.not_image_type:
            if value.upper() in types:
                yield f"its image type has {value}"
        description = facts.get("series_description", "")
        if self.description and not re.search(self.description, description, re.IGNORECASE):
            yield f"its description does not match {self.description!r}"
        if self.not_description and re.search(self.not_description, description, re.IGNORECASE):
            yield f"its description matches {self.not_description!r}"
        part = facts.get("body_part", "")
        if self.body_part and not re.search(self.body_part, part, re.IGNORECASE):
            yield f"its body part does not match {self.body_part!r}"
        if self.contrast is not None and facts.get("contrast", False) != self.contrast:
            yield "a contrast agent was given" if facts.get("contrast") else "no contrast agent was given"
        # The following is known only for sound series; a broken one is refused by its reader, not left out.
        if "problem" in facts:
            return
        if self.plane and plane != self.plane:
            yield f"its plane is {plane}"
        thickness = max(facts.get("slice_thickness", 0.0), facts.get("spacing", (0, 0, 0))[2])
        if self.max_slice_thickness is not None and thickness > self.max_slice_thickness:
            yield f"its slices are {thickness:g} mm thick"
        if "shape" in facts and facts["shape"][2] < self.min_slices:
            yield f"it has {facts['shape'][2]} slices"


Rules = SeriesRules | Sequence[SeriesRules]
