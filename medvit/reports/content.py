"""The content of a report, in order and in words, for every output format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medvit.reports.brain import hippocampus_totals
from medvit.reports.changes import Changes
from medvit.reports.chart import norm_chart
from medvit.reports.language import MISSING, Language
from medvit.reports.measurement import Asymmetry
from medvit.reports.norms import ASYMMETRY_90_PERCENT, regressions
from medvit.reports.patient import display_name, technical_facts
from medvit.reports.pictures import Picture
from medvit.reports.quality import INTRACRANIAL_L
from medvit.reports.report import StudyReport
from medvit.reports.volumes import VolumeTable

# Headings, and the facts of the series under each.
FACTS = {
    "description": ("study_description", "series_description", "protocol"),
    "scanner": ("manufacturer", "model"),
    "field_strength": ("field_strength",),
    "slice_thickness": ("slice_thickness",),
}
# Norms that are drawn over age.
CHARTED = ("hippocampus", "ventricles", "thalamus")
LEVEL_SIGN = {"info": "i", "warning": "!", "serious": "✕"}


@dataclass(frozen=True)
class Figure:
    """A picture with its caption and its alternative text."""

    picture: Picture
    caption: str
    alt: str


class Content:
    """The parts of a report in one language.

    Parameters
    ----------
    report
        The result to describe.
    language
        Language of the words.
    show_patient
        Whether the patient's identifying facts are named.
    """

    def __init__(self, report: StudyReport, language: Language, *, show_patient: bool = False) -> None:
        self.report = report
        self.words = language
        self.show_patient = show_patient

    def facts(self) -> list[tuple[str, str]]:
        """The examination: pairs of a heading and a text."""
        report, words = self.report, self.words
        grid = report.grid
        rows = [(words["study"], report.study_id)]
        if self.show_patient:
            rows += [(f"{words['patient']}: {key}", self._identity(key)) for key in report.patient]
        rows += [(words["date"], words.date(report.shown_date(self.show_patient)))]
        if report.age is not None or report.sex is not None:
            sex = words[f"sex_{report.sex}"] if report.sex else MISSING
            rows.append((words["age_sex"], words["person"].format(age=self._age(), sex=sex)))
        rows.append((words["modality"], self._modality()))
        facts = report.facts if self.show_patient else technical_facts(report.facts)
        for heading, names in FACTS.items():
            stated = (facts[n] for n in names if facts.get(n))
            # Scanners write numbers such as 0.8799999952316284.
            said = (
                f"{v:.4g}".replace(".", words.decimal) if isinstance(v, float) else str(v) for v in stated
            )
            rows.append((words[heading], ", ".join(said)))
        spacing = " × ".join(words.number(s, 2) for s in grid.spacing)
        rows.append((words["grid"], f"{' × '.join(map(str, grid.shape))}; {spacing} mm"))
        if report.display.tilt >= 1.0:
            rows.append((words["tilt"], f"{words.number(report.display.tilt)}°"))
        return [(k, v) for k, v in rows if v and v != "–"]

    def _identity(self, key: str) -> str:
        value = str(self.report.patient[key])
        return display_name(value) if key == "name" else value

    @property
    def title(self) -> str:
        """Title of the report: structures and volumes, or a restored image."""
        restored = self.report.restoration is not None and not len(self.report.table)
        return self.words["restoration_title" if restored else "title"]

    @property
    def verdict(self) -> str:
        """The first finding that counts, or that nothing was found."""
        finding = self.report.verdict(self.words.code).finding
        return finding or self.words["no_flags"]

    def _modality(self) -> str:
        code = self.report.modality
        return f"{self.words[code]} ({code})" if code in self.words.words else code

    def flags(self) -> list[dict[str, str]]:
        """Findings of quality control: level, its sign and name, what was seen, what to do."""
        rows = []
        for flag in self.report.flags:
            seen, do = self.words.flag(flag, self.report.table.by_name)
            rows.append(
                {
                    "level": flag.level,
                    "sign": LEVEL_SIGN[flag.level],
                    "name": self.words[flag.level],
                    "seen": seen,
                    "do": do,
                }
            )
        return rows

    def totals_title(self) -> str:
        """Heading of the totals: of the head, or of the hippocampi where only these were segmented."""
        if self.report.totals is None and hippocampus_totals(self.report.measurements):
            name = self.words.pair("hippocampus")
            return name[:1].upper() + name[1:]
        return self.words["totals"]

    def totals(self) -> list[tuple[str, str, str, str]]:
        """Totals of a head or of its hippocampi: name, ml, per cent of the whole, percentile."""
        totals, words = self.report.totals, self.words
        if totals is None:
            return self._hippocampi()
        low, high = INTRACRANIAL_L
        within = low <= totals.intracranial_ml / 1000 <= high
        rows = [(words["intracranial"], words.ml(totals.intracranial_ml) + ("" if within else " ✕"), "", "")]
        for name, ml, norm in (
            ("whole_brain", totals.brain_ml, ""),
            ("ventricles", totals.ventricles_ml, self.table.percentile("ventricles")),
            ("all_fluid", totals.fluid_ml, ""),
        ):
            share = 100 * ml / totals.intracranial_ml if totals.intracranial_ml else None
            rows.append((words[name], words.ml(ml), words.number(share, 1), norm))
        return rows

    def _hippocampi(self) -> list[tuple[str, str, str, str]]:
        """Head, body and tail together, by side."""
        words, measured = self.words, self.report.measurements
        rows = []
        for side, ml in hippocampus_totals(measured).items():
            name = f"{words.pair('hippocampus')} ({words[side]})" if side else words.pair("hippocampus")
            share = 100 * ml / measured.whole_ml if measured.whole_ml else None
            rows.append((name, words.ml(ml), words.number(share, 1), ""))
        return rows

    def _hippocampal_notes(self) -> list[str]:
        """Asymmetry of the whole hippocampi, to which the published range belongs, where both are there."""
        totals = hippocampus_totals(self.report.measurements)
        index = Asymmetry("hippocampus", totals.get("left", 0.0), totals.get("right", 0.0)).index
        if index is None:
            return []
        limit = ASYMMETRY_90_PERCENT["hippocampus"]
        note = self.words["hippocampal_asymmetry"].format(index=self.table.marked(index, limit))
        return [f"{note} {self.table.asymmetry_range()}"]

    def norm_notes(self) -> list[str]:
        """Explanation of the percentiles, or why there are none; empty where norms do not apply."""
        report, words = self.report, self.words
        if report.totals is None:
            return self._hippocampal_notes()
        if report.modality == "CT":
            return []
        if report.covariates is None:
            return [words["no_norms"]] if report.age is None or report.sex is None else [words["doubted"]]
        if not report.norms:
            youngest, oldest = regressions()["ages"]
            return [words["no_norms_at_age"].format(low=youngest, high=oldest)]
        person = words["person"].format(age=self._age(), sex=words[f"sex_{report.sex}"])
        note = words["norm_note"].format(
            person=person, icv=words.ml(report.covariates.icv_ml), scanner=report.covariates.scanner,
            source=regressions()["source"],
        )  # fmt: skip
        return [note]

    def _age(self) -> str:
        age = self.report.age
        return MISSING if age is None else "90+" if age >= 90 else self.words.number(age, 0)

    def norm_charts(self) -> list[Figure]:
        """Small charts of the norm over age, with the patient's point."""
        covariates, charts = self.report.covariates, []
        for name in CHARTED if covariates else ():
            if name not in self.report.norms or covariates is None:
                continue
            volume, norm = self.report.norms[name]
            pair = f"{self.words.pair(name)} ({self.words['total']})"
            title = self.words["ventricles"] if name == "ventricles" else pair
            picture = norm_chart(name, covariates, volume, self.words)
            caption = self.words["norm_caption"].format(
                structure=title, ml=self.words.ml(volume), z=self.words.number(norm.z(volume), 1, sign=True),
                percentile=self.table.percentile(name),
            )  # fmt: skip
            charts.append(Figure(picture, caption, caption))
        return charts

    @cached_property
    def table(self) -> VolumeTable:
        """The table of volumes, its notes and the legend."""
        return VolumeTable(self.report, self.words)

    @cached_property
    def changes(self) -> Changes | None:
        """The comparison with earlier studies, where there are any."""
        return Changes(self.report, self.words) if self.report.priors else None

    def change_figures(self) -> list[Figure]:
        """The slices that changed most, with the outlines of the latest earlier study."""
        prior = self.report.latest_prior
        outlined = self.words["earlier_outlined"].format(date=self.words.date(prior.date)) if prior else ""
        return [self._compared(outlined, picture) for picture in self.report.changed]

    def restoration(self) -> list[tuple[str, str, str]]:
        """Noise, signal to noise (not of HU, whose zero is water) and sharpness before and after."""
        if self.report.restoration is None:
            return []
        before, after = self.report.restoration.before, self.report.restoration.after
        number = self.words.number
        rows = [
            (f"{self.words['noise']}, {self.report.unit}", number(before.noise, 2), number(after.noise, 2)),
            (self.words["snr"], number(before.snr, 1), number(after.snr, 1)),
            (self.words["sharpness"], number(before.sharpness, 1), number(after.sharpness, 1)),
        ]
        if deviations := self.report.restoration.deviations:
            name = f"{self.words['inconsistency']}, {self.report.unit}"
            rows.append((name, number(deviations[0], 2), number(deviations[1], 2)))
        return [row for row in rows if self.report.modality != "CT" or row[0] != self.words["snr"]]

    def figures(self) -> list[Figure]:
        """Slices in three planes, and of a restoration before, after and the difference."""
        comparison = self.report.comparison
        compared = comparison.pictures if comparison else ()
        figures = [self._compared(self.words[role], picture) for role, picture in compared]
        for picture in self.report.slices if len(self.report.table) or not comparison else ():
            title = self.words["slice_caption"].format(plane=self.words[picture.kind], index=picture.index)
            names = self.words.listing(self._names(picture.values), most=8)
            shown = self.words["largest_section"].format(structures=names)
            alt = self.words["slice_alt"].format(plane=self.words[picture.kind], index=picture.index)
            figures.append(Figure(picture, f"{title}: {shown}" if names else title, alt))
        return figures

    def _compared(self, title: str, picture: Picture) -> Figure:
        words = {"plane": self.words[picture.kind], "index": picture.index}
        caption = f"{title}: {self.words['slice_caption'].format(**words)}"
        return Figure(picture, caption, caption)

    def _names(self, values: tuple[int, ...]) -> list[str]:
        """Names of labels, both sides of a pair under one name."""
        structures = [self.report.table.structures[v - 1] for v in values]
        counts: dict[str, int] = {}
        for s in structures:
            counts[s.unsided_name] = counts.get(s.unsided_name, 0) + 1
        return list(
            dict.fromkeys(
                self.words.pair(s.unsided_name) if counts[s.unsided_name] == 2 else self.words.structure(s)
                for s in structures
            )
        )

    def overview(self) -> Figure | None:
        """The montage, where there is one."""
        if self.report.overview is None:
            return None
        of = "montage" if self.report.display.labels.any() else "montage_image"
        return Figure(self.report.overview, self.words[f"{of}_caption"], self.words[f"{of}_alt"])

    def surface(self) -> Figure | None:
        """The surface rendering, where there is one."""
        surface = self.report.surface
        if surface is None:
            return None
        return Figure(surface, self.words[f"{surface.kind}_caption"], self.words["surface_alt"])

    def picture_notes(self) -> list[str]:
        """How to read the pictures."""
        display, words = self.report.display, self.words
        notes = [words["convention"]]
        if self.report.image is not None:
            low, high = (words.number(v, 0 if abs(v) >= 10 else 2) for v in display.window)
            notes.append(words["window"].format(low=low, high=high, unit=self.report.unit))
        if self.report.comparison is not None:
            span = self.report.comparison.span
            number = words.number(span, 0 if span >= 10 else 2)
            notes.append(words["difference_note"].format(span=number, unit=self.report.unit))
            if self.report.restoration and self.report.restoration.inconsistency:
                notes.append(words["inconsistency_note"])
        if display.tilt >= 1.0:
            notes.append(words["oblique"].format(degrees=words.number(display.tilt)))
        return notes

    def provenance(self) -> list[tuple[str, str]]:
        """Provenance: bundle, weights, versions and settings."""
        rows = [
            (self.words.words.get(key, key.replace("_", " ")), _text(value))
            for key, value in self.report.provenance.items()
        ]
        if self.report.timings:
            seconds = {stage: self.words.number(s, 2) for stage, s in self.report.timings.items()}
            rows.append((self.words["timings"], _text(seconds)))
        if self.report.notes:
            rows.append((self.words["notes"], " ".join(self.report.notes)))
        return rows


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)
