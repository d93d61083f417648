"""PET: units of the values, and the factor from activity to standardised uptake values (body weight)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from medvit.errors import StudyError
from medvit.studies.dicom.headers import Attributes, Header
from medvit.studies.dicom.planes import Plane

_STATED = {"BQML": "Bq/ml", "GML": "g/ml", "CNTS": "counts", "PROPCPS": "counts/s", "CPS": "counts/s"}
_LONGEST_DELAY_S = 24 * 3600


def units(planes: Sequence[Plane]) -> tuple[str, float]:
    """Units of the values of a series, and the factor by which rescaled values are multiplied.

    CT is in HU if the header states a rescale and no other unit. PET activity becomes SUV by body weight if
    the header has everything that this requires. Other modalities have no units.

    Parameters
    ----------
    planes
        All planes of the volume.

    References
    ----------
    QIBA FDG-PET/CT profile, appendix G: weight in g, dose decayed to the time that the images are
    corrected to (DecayCorrection START: the series' start; ADMIN: the injection itself).
    """
    headers = [plane.header for plane in planes]
    first = headers[0]
    modality = first.text("Modality")
    if modality == "CT":
        types = {plane.rescale.type for plane in planes}
        if all(plane.rescale.stated for plane in planes) and types <= {"", "HU", "HU_MOD"}:
            return "HU", 1.0
        return (types.pop() if len(types) == 1 and "US" not in types else ""), 1.0
    if modality != "PT":
        return "", 1.0
    stated = first.text("Units")
    if stated == "GML" and first.text("SUVType") in ("", "BW"):
        return "SUVbw", 1.0
    factor = _factor(headers) if stated == "BQML" else None
    return (_STATED.get(stated, stated), 1.0) if factor is None else ("SUVbw", factor)


def _factor(headers: Sequence[Header]) -> float | None:
    """Grams of body weight for each becquerel present at the reference time; ``None`` if unknown."""
    first = headers[0]
    tracer = next(iter(first.items("RadiopharmaceuticalInformationSequence")), None)
    if tracer is None:
        return None
    try:
        weight, dose = first.number("PatientWeight"), tracer.number("RadionuclideTotalDose")
        half_life = tracer.number("RadionuclideHalfLife")
    except StudyError:
        return None
    corrections = first.text("CorrectedImage")
    if corrections and not {"DECY", "ATTN"} <= set(corrections.split("\\")):
        return None
    if not all(value is not None and value > 0 for value in (weight, dose, half_life)):
        return None
    delay = _delay(headers, tracer, first.text("DecayCorrection"))
    if delay is None or not 0 <= delay <= _LONGEST_DELAY_S:
        return None
    return weight * 1000 / (dose * math.exp(-math.log(2) * delay / half_life))  # type: ignore[operator]


def _delay(headers: Sequence[Header], tracer: Attributes, correction: str) -> float | None:
    """Seconds from the injection to the time that the activity is corrected to."""
    if correction == "ADMIN":
        return 0.0
    scan = _moment(headers[0].text("SeriesDate"), headers[0].text("SeriesTime"))
    acquired = [_moment(h.text("AcquisitionDate"), h.text("AcquisitionTime")) for h in headers]
    known = [moment for moment in acquired if moment is not None]
    # A series made after the scan has its own time, which has nothing to do with the decay correction.
    if correction != "START" or scan is None or (known and scan > min(known)):
        return None
    stamp = tracer.text("RadiopharmaceuticalStartDateTime")
    if stamp:
        injected = _moment(stamp[:8], stamp[8:].split("+")[0].split("-")[0])
    else:
        injected = _moment(headers[0].text("SeriesDate"), tracer.text("RadiopharmaceuticalStartTime"))
    return None if injected is None else (scan - injected).total_seconds()


def _moment(date: str, time: str) -> datetime | None:
    whole = time.split(".")[0].ljust(6, "0")
    try:
        return datetime.strptime(date + whole, "%Y%m%d%H%M%S")
    except ValueError:
        return None
