"""Remarks on the headers of a volume that the user should know, and that do not prevent reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from medvit.studies.dicom.planes import Plane
from medvit.studies.gate import BELIEVABLE_SPACING


def remarks(planes: Sequence[Plane]) -> tuple[str, ...]:
    """Sentences on units, values, compression and annotation of the planes of a volume."""
    return tuple(_remarks(planes))


def _remarks(planes: Sequence[Plane]) -> Iterator[str]:
    headers = list({plane.header.path: plane.header for plane in planes}.values())
    first = planes[0]
    types = Counter(plane.rescale.type or "unstated" for plane in planes)
    if len(types) > 1:
        counts = ", ".join(f"{name} in {count}" for name, count in sorted(types.items()))
        yield f"RescaleType is not the same in all images ({counts}); values were taken as they are."
    if first.header.text("Modality") == "CT" and all(
        plane.rescale.stated and plane.rescale.intercept >= 0 for plane in planes
    ):
        signed = any(header.text("PixelRepresentation") == "1" for header in headers)
        if not signed:
            yield "No value of this CT can be below zero (RescaleIntercept is 0): check that they are HU."
    lossy = sum(header.text("LossyImageCompression") == "01" for header in headers)
    if lossy:
        yield f"The images were compressed with loss (files: {lossy})."
    burned = sum(header.text("BurnedInAnnotation").upper() == "YES" for header in headers)
    if burned:
        yield f"Text is burned into the pixels (files: {burned})."
    low, high = BELIEVABLE_SPACING
    if not all(low <= step <= high for step in first.spacing):
        stated = " x ".join(f"{step:g}" for step in first.spacing)
        yield f"The pixel spacing of {stated} mm is unusual for a patient."
