"""The quality-control verdict on a result in memory."""

from __future__ import annotations

from typing import Any

from medvit.bundles import Result
from medvit.bundles.gate import forced_reason
from medvit.reports import Verdict, make_report, report_restored
from medvit.studies import LabelTable


def verdict_of(result: Result, table: LabelTable | None) -> Verdict:
    """The light and the first finding, in English, as in the report of ``medvit run``.

    Parameters
    ----------
    result
        Result of a bundle.
    table
        The structures; `None` for a restored image.
    """
    study = result.study
    image = study.image[0].numpy()
    described: dict[str, Any] = {
        "facts": study.series[0].facts,
        "expected_modalities": result.bundle.facts.get("modality", ()),
        "forced": forced_reason(study),
    }
    if table is None:
        report = report_restored(study, result.voxels, result.grid, **described)
    else:
        report = make_report(study.id, result.voxels, study.grid, table, image, **described)
    return report.verdict()
