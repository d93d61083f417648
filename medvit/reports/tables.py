"""The result as data: `measurements.json`, and rows for tables in long and wide form."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from medvit.reports.image_quality import ImageQuality
from medvit.reports.language import load_language
from medvit.reports.measurement import StructureMeasurement
from medvit.reports.norms import LIMIT_95, regressions
from medvit.reports.patient import technical_facts
from medvit.reports.quality import Verdict
from medvit.reports.report import StudyReport
from medvit.studies.files import atomic_path

SCHEMA_VERSION = "1.1"


def measurements_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `measurements.json`."""
    return json.loads((files("medvit.reports") / "schema" / "measurements.schema.json").read_text("utf-8"))


def to_json(report: StudyReport, *, show_patient: bool = False) -> dict[str, Any]:
    """The content of ``measurements.json``: no paths; missing or infinite values are null.

    Parameters
    ----------
    show_patient
        Whether study date and free text of the headers (descriptions, protocol, body part) are given; the
        patient is not named in either case.
    """
    date = report.shown_date(show_patient)
    english = load_language("en")
    by_name = report.table.by_name
    flags = [
        {"code": f.code, "level": f.level, "structures": list(f.structures), "values": dict(f.values)}
        | dict(zip(("seen", "do"), english.flag(f, by_name), strict=True))
        for f in report.flags
    ]
    measurements = report.measurements
    content = {
        "schema_version": SCHEMA_VERSION,
        "research_use_only": True,
        "study": {
            "id": report.study_id,
            "date": date.isoformat() if date else None,
            "age_years": min(report.age, 90.0) if report.age is not None else None,
            "sex": report.sex,
            "patient_check": report.patient_check,
            "facts": dict(report.facts) if show_patient else technical_facts(report.facts),
            "notes": list(report.notes),
        },
        "grid": {
            "shape": list(report.grid.shape),
            "spacing_mm": list(report.grid.spacing),
            "voxel_volume_mm3": report.grid.voxel_volume,
            "affine": report.grid.affine.tolist(),
        },
        "label_table": {"name": report.table.name, "source": report.table.source},
        "whole": {"name": measurements.whole_name, "volume_ml": measurements.whole_ml},
        "totals": _totals(report),
        "norms": _norms(report),
        "intensity_unit": report.unit if report.image is not None else None,
        "structures": [structure_entry(m) for m in measurements.structures],
        "asymmetry": [asdict(a) | {"index_percent": a.index} for a in measurements.asymmetries],
        "image_quality": _quality(report.image_quality),
        "restoration": {
            "before": _quality(report.restoration.before),
            "after": _quality(report.restoration.after),
            "deviation_from_slices": report.restoration.deviations,
            "difference": asdict(report.restoration.difference) if report.restoration.difference else None,
        }
        if report.restoration
        else None,
        "quality": {"light": report.light, "flags": flags},
        "provenance": dict(report.provenance),
        "timings_s": dict(report.timings),
    }
    return plain(content)


def write_json(report: StudyReport, path: Path | str, *, show_patient: bool = False) -> Path:
    """Write ``measurements.json``, as `to_json` describes it; the file appears whole or not at all."""
    content = to_json(report, show_patient=show_patient)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


LONG_COLUMNS = (
    "study", "date", "structure", "side", "present", "volume_ml", "share_percent", "asymmetry_percent",
    "intensity_mean", "intensity_std", "parts", "touches_border", "plausible_low_ml", "plausible_high_ml",
    "quality",
)  # fmt: skip


def long_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each structure, from the content of a `measurements.json`."""
    asymmetry = {a["name"]: a["index_percent"] for a in content["asymmetry"]}
    rows = []
    for s in content["structures"]:
        low, high = s["plausible_ml"] or (None, None)
        intensity = s["intensity"] or {"mean": None, "std": None}
        unsided = s["name"].removeprefix(f"{s['side']} ") if s["side"] else None
        values = (
            content["study"]["id"], content["study"]["date"], s["name"], s["side"], s["present"],
            s["volume_ml"], s["share_percent"], asymmetry.get(unsided), intensity["mean"], intensity["std"],
            s["parts"], "+".join(s["touches_border"]), low, high, content["quality"]["light"],
        )  # fmt: skip
        rows.append(dict(zip(LONG_COLUMNS, values, strict=True)))
    return rows


def wide_row(content: Mapping[str, Any]) -> dict[str, Any]:
    """One row for the study, with a volume column for each structure, from a `measurements.json`."""
    row = {
        "study": content["study"]["id"],
        "date": content["study"]["date"],
        "quality": content["quality"]["light"],
        "finding": Verdict.of(content).finding,
        "flags": "+".join(f["code"] for f in content["quality"]["flags"]),
        f"{content['whole']['name']}_ml".replace(" ", "_"): content["whole"]["volume_ml"],
    }
    for s in content["structures"]:
        row[f"{s['name']}_ml".replace(" ", "_")] = s["volume_ml"]
    for a in content["asymmetry"]:
        row[f"{a['name']}_asymmetry_percent".replace(" ", "_")] = a["index_percent"]
    return row


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Comma-separated text with a header; columns in the order of their first appearance."""
    rows = list(rows)
    names = list(columns) if columns else list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Numbers rounded to their significant digits; text that spreadsheets run as formulas is quoted."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _totals(report: StudyReport) -> dict[str, Any] | None:
    if report.totals is None:
        return None
    return asdict(report.totals) | {"parenchymal_fraction": report.totals.parenchymal_fraction}


def _norms(report: StudyReport) -> dict[str, Any] | None:
    if not report.norms or report.covariates is None:
        return None
    return {
        "source": regressions()["source"],
        "scanner": report.covariates.scanner,
        "volumes": {
            name: {
                "volume_ml": volume,
                "expected_ml": norm.ml(0.0),
                "low_95_ml": norm.ml(-LIMIT_95),
                "high_95_ml": norm.ml(LIMIT_95),
                "z": norm.z(volume),
                "percentile": norm.percentile(volume),
            }
            for name, (volume, norm) in report.norms.items()
        },
    }


def structure_entry(m: StructureMeasurement) -> dict[str, Any]:
    """One structure in the form of ``measurements.json``."""
    s = m.structure
    return {
        "value": s.file_value,
        "name": s.name,
        "side": s.side,
        "code": asdict(s.code),
        "present": m.present,
        "voxels": m.voxels,
        "volume_ml": m.volume_ml,
        "share_percent": 100 * m.share,
        "intensity": {"mean": m.intensity_mean, "std": m.intensity_std}
        if m.intensity_mean is not None
        else None,
        "touches_border": list(m.border),
        "border_mm2": m.border_mm2,
        "parts": m.parts,
        "largest_part_percent": 100 * m.largest_part,
        "confidence": m.confidence,
        "centroid_mm": list(m.centroid) if m.centroid else None,
        "plausible_ml": list(s.plausible_ml) if s.plausible_ml else None,
    }


def _quality(quality: ImageQuality | None) -> dict[str, Any] | None:
    return asdict(quality) if quality else None


def plain(value: Any) -> Any:
    """`value` in JSON's own types: NumPy scalars unpacked, NaN and infinity as null, the rest as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
