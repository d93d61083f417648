"""Earlier studies of the same patient: reading them, and refusing those that cannot be compared."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError
from medvit.reports.dates import parse_date, prior_and_date
from medvit.reports.measurement import INTRACRANIAL
from medvit.reports.quality import Verdict


@dataclass(frozen=True)
class Prior:
    """An earlier study of the same patient.

    Parameters
    ----------
    volumes_ml
        Volumes by structure name.
    verdict
        Judgement of quality control at the time; `None` if unknown.
    contrast
        ``"T1-like"``, ``"T2-like"``, ``"other"``, or empty when it is not known.
    spacing
        Voxel size in mm; empty when it is not known.
    bundle
        Name and version of the bundle.
    weights_sha256
        Digest of its weights.
    intracranial_ml
        Intracranial volume; `None` where the study does not show a head.
    patient_check
        Digits from `medvit.reports.patient.patient_check`.
    sex
        Sex, ``"F"``, ``"M"`` or `None`.
    label_map
        Its label map, where that lies beside its measurements.
    """

    study_id: str
    date: datetime.date
    volumes_ml: Mapping[str, float]
    verdict: Verdict | None = None
    contrast: str = ""
    spacing: tuple[float, ...] = ()
    bundle: str = ""
    weights_sha256: str = ""
    intracranial_ml: float | None = None
    patient_check: str | None = None
    sex: str | None = None
    label_map: Path | None = None


def read_prior(path: Path | str) -> Prior:
    """An earlier study from its ``measurements.json``.

    Parameters
    ----------
    path
        The file; ``FILE@YYYY-MM-DD`` states the date of a study whose file does not.

    Raises
    ------
    MedvitError
        If the file cannot be read as measurements, or neither it nor `path` states the study date.
    """
    file, date = prior_and_date(path)
    try:
        content = json.loads(file.read_text("utf-8"))
        date = date or parse_date(content["study"]["date"])
        volumes = {s["name"]: float(s["volume_ml"]) for s in content["structures"] if s["present"]}
        study, provenance = content["study"], content["provenance"]
        prior_facts: dict[str, Any] = {
            "verdict": Verdict.of(content),
            "contrast": contrast_of(content["structures"]),
            "spacing": tuple(float(s) for s in content["grid"]["spacing_mm"]),
            "bundle": f"{provenance.get('bundle', '')} {provenance.get('bundle_version', '')}".strip(),
            "weights_sha256": str(provenance.get("weights_sha256", "")),
            "intracranial_ml": _intracranial(content.get("whole")),
            "patient_check": study.get("patient_check"),
            "sex": study.get("sex"),
        }
        study_id = str(study["id"])
        beside = file.with_name("labels.nii.gz")
        prior_facts["label_map"] = beside if beside.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedvitError(f"{file}: not a readable measurements.json ({error})") from error
    if date is None:
        raise MedvitError(
            f"{file}: the earlier study states no date, so a change cannot be placed in time; "
            f"state it as {file.name}@YYYY-MM-DD"
        )
    return Prior(study_id, date, volumes, **prior_facts)


def _intracranial(whole: Mapping[str, Any] | None) -> float | None:
    # Measurements of before version 0.2 have no whole.
    if whole is None:
        return None
    return float(whole["volume_ml"]) if whole["name"] == INTRACRANIAL else None


def check_priors(
    priors: Sequence[Prior],
    date: datetime.date | None,
    patient_check: str | None = None,
    sex: str | None = None,
) -> None:
    """Refuse earlier studies that are not earlier, or not of the same patient.

    Parameters
    ----------
    date, patient_check, sex
        Facts of the present study.

    Raises
    ------
    MedvitError
        If the present study has no date, an earlier study is not earlier, or it belongs to somebody else.
    """
    for prior in priors:
        if date is None:
            raise MedvitError(
                "the study has no date, so it cannot be compared with an earlier one; state it with --date"
            )
        if prior.date >= date:
            when = "has the same date as" if prior.date == date else "is later than"
            raise MedvitError(
                f"the earlier study {prior.study_id!r} ({prior.date}) {when} the present one ({date}); "
                "compare studies of different days, the earlier one under --prior"
            )
        pairs = ((prior.patient_check, patient_check), (prior.sex, sex))
        if any(before and now and before != now for before, now in pairs):
            raise MedvitError(
                f"the earlier study {prior.study_id!r} is of another patient; choose one of the same patient"
            )


def contrast_of(structures: Sequence[Mapping[str, Any]]) -> str:
    """Contrast of a head by the order of its mean intensities; empty when tissues are missing.

    Parameters
    ----------
    structures
        Entries of a ``measurements.json``.
    """
    means = {s["name"]: s["intensity"]["mean"] for s in structures if s["present"] and s["intensity"]}
    white, grey = (means.get(f"left cerebral {part}") for part in ("white matter", "cortex"))
    fluid = means.get("left lateral ventricle")
    if white is None or grey is None or fluid is None:
        return ""
    return "T1-like" if white > grey > fluid else "T2-like" if white < grey < fluid else "other"


@cache
def repeatability() -> dict[str, Any]:
    """Differences of volumes between repeated scans of one head: ``source``, ``bundle``, per cent by name."""
    return json.loads((files("medvit.reports") / "normative" / "repeatability.json").read_text("utf-8"))


def repeatability_percent(name: str) -> float:
    """Change in per cent that repeats of one head exceed in 5 % of cases; the widest where not measured."""
    measured = repeatability()["percent"]
    return float(measured.get(name, max(measured.values())))
