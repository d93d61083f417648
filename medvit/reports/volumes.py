"""The table of volumes in words: a line for each structure or pair, its notes, and the legend of colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medvit.reports.language import Language
from medvit.reports.measurement import StructureMeasurement
from medvit.reports.norms import ASYMMETRY_90_PERCENT, ASYMMETRY_SOURCE
from medvit.reports.report import StudyReport
from medvit.studies.labels import Structure


@dataclass(frozen=True)
class VolumeRow:
    """One line of the table of volumes, as text; a pair shares one line, with a cell for each side.

    Parameters
    ----------
    side
        ``"left"`` or ``"right"`` if the line holds this side alone, otherwise empty.
    """

    name: str
    colors: tuple[str, ...]
    volumes: tuple[str, ...]
    total: str
    share: str
    intensities: tuple[str, ...]
    asymmetry: str
    range: str
    percentiles: tuple[str, ...]
    side: str = ""


class VolumeTable:
    """The volumes of a report in one language."""

    def __init__(self, report: StudyReport, words: Language) -> None:
        self.report, self.words = report, words

    def rows(self) -> list[VolumeRow]:
        """The lines; a pair has the position of its left side in the label table."""
        return [self._row(group) for group in self._groups()]

    def _row(self, group: tuple[StructureMeasurement, ...]) -> VolumeRow:
        first, paired = group[0].structure, len(group) == 2
        number, present = self.words.number, [m for m in group if m.present]
        total = sum(m.volume_ml for m in group)
        share = 100 * sum(m.share for m in present)
        return VolumeRow(
            self.words.pair(first.unsided_name) if paired else self.words.structure(first),
            tuple(css_color(m.structure) for m in group),
            tuple(self._volume(m) for m in group),
            self.words.ml(total) if len(present) == len(group) and (paired or not first.side) else "",
            number(share, 2 if share < 10 else 1) if present else "",
            tuple(self._intensity(m) for m in group),
            self._asymmetry(first.unsided_name) if paired else "",
            self._range(first),
            tuple(self.percentile(m.structure.name) for m in group),
            "" if paired else first.side,
        )

    def _groups(self) -> Iterator[tuple[StructureMeasurement, ...]]:
        measured = {m.structure: m for m in self.report.measurements.structures}
        pairs = {a: b for a, b in self.report.table.pairs() if a in measured and b in measured}
        rights = set(pairs.values())
        for structure, m in measured.items():
            if structure in pairs:
                yield m, measured[pairs[structure]]
            elif structure not in rights:
                yield (m,)

    def _volume(self, m: StructureMeasurement) -> str:
        if not m.present:
            return self.words["absent"]
        text = self.words.ml(m.volume_ml)
        if m.structure.plausible_ml is None:
            return text
        low, high = m.structure.plausible_ml
        return f"{text} ▼" if m.volume_ml < low else f"{text} ▲" if m.volume_ml > high else text

    def _intensity(self, m: StructureMeasurement) -> str:
        if m.intensity_mean is None or m.intensity_std is None:
            return ""
        digits = 0 if abs(m.intensity_mean) >= 100 else 1 if abs(m.intensity_mean) >= 10 else 2
        return f"{self.words.number(m.intensity_mean, digits)} ± {self.words.number(m.intensity_std, digits)}"

    def _range(self, structure: Structure) -> str:
        if structure.plausible_ml is None:
            return ""
        low, high = structure.plausible_ml
        low_text, high_text = (self.words.number(v, 1 if v < 100 else 0) for v in (low, high))
        return f"{low_text} – {high_text}"

    def _asymmetry(self, name: str) -> str:
        index = next(a.index for a in self.report.measurements.asymmetries if a.name == name)
        return self.marked(index, ASYMMETRY_90_PERCENT.get(name) if self.report.totals else None)

    def marked(self, index: float | None, limit: float | None) -> str:
        """An asymmetry in per cent, marked where it lies beyond the published range."""
        text = self.words.number(index, 1, sign=True)
        return f"{text} ◆" if index is not None and limit is not None and abs(index) > limit else text

    def percentile(self, name: str) -> str:
        """Percentile of a structure, pair or total among healthy adults; empty where there is no norm."""
        if name not in self.report.norms:
            return ""
        volume, norm = self.report.norms[name]
        percentile = norm.percentile(volume)
        if 1 <= percentile <= 99:
            return self.words.number(percentile, 0)
        return "< 1" if percentile < 1 else "> 99"

    def asymmetry_range(self) -> str:
        """Sentence on the published range of asymmetries."""
        limit = self.words.number(ASYMMETRY_90_PERCENT["hippocampus"], 1)
        return self.words["asymmetry_range"].format(limit=limit, source=ASYMMETRY_SOURCE)

    def notes(self) -> list[str]:
        """Explanation of the table's columns."""
        measured, words = self.report.measurements, self.words
        notes = [words[f"of_{measured.whole_name}"].format(ml=words.ml(measured.whole_ml))]
        if measured.asymmetries:
            notes.append(words["asymmetry_note"])
        if self.report.totals and any(a.name in ASYMMETRY_90_PERCENT for a in measured.asymmetries):
            notes.append(self.asymmetry_range())
        if self.report.table.source:
            sources = words.words.get(f"range_source_{self.report.table.name}", self.report.table.source)
            notes.append(words["range_source"].format(source=sources.rstrip(".")))
        return notes

    def legend(self) -> list[tuple[str, str]]:
        """Colour and name of each structure found; a pair that shares its colour is listed once."""
        found = [m.structure for m in self.report.measurements.present]
        entries = {(css_color(s), self._legend_name(s)): None for s in found}
        return list(entries)

    def _legend_name(self, structure: Structure) -> str:
        alike = any(
            structure in pair and pair[0].color == pair[1].color for pair in self.report.table.pairs()
        )
        return self.words.pair(structure.unsided_name) if alike else self.words.structure(structure)


def css_color(structure: Structure) -> str:
    """``#rrggbb``"""
    return "#{:02x}{:02x}{:02x}".format(*structure.color)
