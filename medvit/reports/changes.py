"""Changes since earlier studies, in words: only those beyond the repeatability of the measurement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medvit.reports.language import MISSING, Language
from medvit.reports.prior import Prior, contrast_of, repeatability, repeatability_percent
from medvit.reports.report import StudyReport
from medvit.reports.tables import structure_entry

# Studies whose voxel sizes differ by more than this factor are not comparable.
ALIKE = 1.5
# An adult's skull keeps its inner size; beyond this difference, a head was cut or is another person's.
SAME_SKULL = 0.05


@dataclass(frozen=True)
class ChangeRow:
    """Volumes of one structure over time, as text: for each earlier study its volume, change in ml, in %."""

    name: str
    now: str
    earlier: tuple[tuple[str, str, str], ...]


class Changes:
    """The comparison of a study with earlier ones in one language."""

    def __init__(self, report: StudyReport, words: Language) -> None:
        self.report, self.words = report, words
        self.priors = sorted(report.priors, key=lambda p: p.date, reverse=True)
        measured = report.whole or report.measurements
        self.contrast = contrast_of([structure_entry(m) for m in measured.structures])

    @property
    def dates(self) -> list[str]:
        """Dates of the earlier studies, latest first."""
        return [self.words.date(p.date) for p in self.priors]

    def studies(self) -> list[tuple[str, str, str, str, str]]:
        """Date, quality, contrast, voxel size and bundle of this study and of each earlier one."""
        report, words, provenance = self.report, self.words, self.report.provenance
        bundle = f"{provenance.get('bundle', '')} {provenance.get('bundle_version', '')}".strip()
        contrast, spacing = self._contrast(self.contrast), self._spacing(report.grid.spacing)
        rows = [(words["now"], words[report.light], contrast, spacing, bundle or MISSING)]
        for p in self.priors:
            light = words[p.verdict.light] if p.verdict else MISSING
            contrast, spacing = self._contrast(p.contrast), self._spacing(p.spacing)
            rows.append((words.date(p.date), light, contrast, spacing, p.bundle or MISSING))
        return rows

    def _contrast(self, name: str) -> str:
        return self.words[f"contrast_{name}"] if name else MISSING

    def _spacing(self, spacing: Sequence[float]) -> str:
        return " × ".join(self.words.number(s, 2) for s in spacing) + " mm" if spacing else MISSING

    def _comparable(self, prior: Prior) -> bool:
        """Whether both studies were measured alike, so that the repeatability holds."""
        weights = self.report.provenance.get("weights_sha256", "")
        for before, now in ((prior.weights_sha256, weights), (prior.contrast, self.contrast)):
            if before and now and before != now:
                return False
        skull = self.report.totals.intracranial_ml if self.report.totals else None
        if skull and prior.intracranial_ml and abs(prior.intracranial_ml / skull - 1) > SAME_SKULL:
            return False
        voxels = math.prod(prior.spacing) / self.report.grid.voxel_volume if prior.spacing else 1.0
        return 1 / ALIKE <= voxels <= ALIKE

    def rows(self) -> list[ChangeRow]:
        """The change of every structure since each earlier study."""
        rows = []
        for m in self.report.measurements.structures:
            before = [p.volumes_ml.get(m.structure.name) for p in self.priors]
            if m.present or any(before):
                volume = m.volume_ml if m.present else None
                earlier = tuple(
                    self._change(m.structure.name, volume, b, self._comparable(p))
                    for b, p in zip(before, self.priors, strict=True)
                )
                now = self.words.ml(volume) if m.present else self.words["absent"]
                rows.append(ChangeRow(self.words.structure(m.structure), now, earlier))
        return rows

    def _change(
        self, name: str, now: float | None, before: float | None, comparable: bool
    ) -> tuple[str, str, str]:
        words = self.words
        if now is None or not before:
            return words.ml(before), MISSING, MISSING
        if not comparable:
            return words.ml(before), MISSING, words["not_comparable"]
        change, band = now - before, repeatability_percent(name)
        percent = 100 * change / before
        if abs(percent) <= band:
            return words.ml(before), MISSING, words["within"].format(band=words.number(band, 0))
        digits = 2 if max(now, before) < 10 else 1
        return (
            words.ml(before),
            words.number(change, digits, sign=True),
            words.number(percent, 1, sign=True),
        )

    def notes(self) -> list[str]:
        """What counts as a change, and why some studies are not compared."""
        notes = [self.words["change_note"].format(bundle=repeatability()["bundle"])]
        if not all(self._comparable(p) for p in self.priors):
            notes.append(self.words["not_comparable_note"])
        return [*notes, *self._alignment()]

    def _alignment(self) -> Iterator[str]:
        """Note on how the latest earlier study was aligned with this one, or why it is not drawn."""
        report, words = self.report, self.words
        if report.latest_prior is None:
            return
        date = words.date(report.latest_prior.date)
        if report.earlier is not None:
            angle, shift = words.number(report.earlier.angle, 1), words.number(report.earlier.shift, 1)
            agreement = words.number(100 * report.earlier.agreement, 0)
            yield words["earlier_placed"].format(date=date, angle=angle, shift=shift, agreement=agreement)
        if report.not_drawn:
            yield words[report.not_drawn].format(date=date)
