"""The report as a PDF of A4 pages."""

from __future__ import annotations

from pathlib import Path

from medvit.reports.content import Content
from medvit.reports.language import load_language
from medvit.reports.report import StudyReport
from medvit.reports.sheet import SOFT, WIDTH, Sheet
from medvit.reports.volumes import VolumeRow
from medvit.studies.files import atomic_path

LAMPS = {"green": "#1a8a3a", "amber": "#f2a900", "red": "#c4162a"}


def write_pdf(
    report: StudyReport, path: Path | str, *, language: str = "en", show_patient: bool = False
) -> Path:
    """Write the report as a PDF of A4 pages with the same words, figures and colours as the HTML.

    Parameters
    ----------
    report
        Content of the report.
    path
        The file; it appears whole or not at all.
    language, show_patient
        Same as in `write_html`.

    Raises
    ------
    MedvitError
        If the language is unknown.
    """
    content = Content(report, load_language(language), show_patient=show_patient)
    words = content.words
    sheet = Sheet(f"{content.title}: {report.study_id}", words["research_use"], words["page"], words.code)
    for section in (_head, _quality, _totals, _volumes, _changes, _restoration, _pictures, _provenance):
        section(sheet, content)
    with atomic_path(path) as partial:
        partial.write_bytes(bytes(sheet.output()))
    return Path(path)


def _head(sheet: Sheet, content: Content) -> None:
    light = content.report.light
    sheet.paragraph(content.title, 16, bold=True)
    sheet.ln(2)
    sheet.lamp(LAMPS[light], content.words[light], content.verdict)
    sheet.notice_box(content.words["research_use"])
    sheet.pairs(content.facts())


def _quality(sheet: Sheet, content: Content) -> None:
    words = content.words
    if not content.report.flags:
        return
    sheet.heading(words["quality"])
    for flag in content.flags():
        sheet.need(12)
        sheet.paragraph(f"{flag['sign']} {flag['name']}: {flag['seen']}")
        sheet.paragraph(f"{words['do']}: {flag['do']}", 8, SOFT, indent=4)
        sheet.ln(1.5)


def _totals(sheet: Sheet, content: Content) -> None:
    words, rows = content.words, content.totals()
    if not rows:
        return
    sheet.heading(content.totals_title())
    header = ["", "ml", f"{words['share']}, %", words["percentile"]]
    columns = 4 if content.report.norms else 3
    sheet.rows(header[:columns], [row[:columns] for row in rows], [80.0, 25, 25, 25][:columns])
    for note in content.norm_notes():
        sheet.paragraph(note, 7.5, SOFT)
    if charts := content.norm_charts():
        sheet.ln(1.5)
        sheet.figures(charts, 3)


def _volumes(sheet: Sheet, content: Content) -> None:
    words, report = content.words, content.report
    if not report.table:
        return
    sheet.heading(words["measurements"])
    paired, left, right = bool(report.measurements.asymmetries), words["left"], words["right"]
    columns = [(words["structure"], 44.0)]
    columns += [(f"ml {left}", 16), (right, 16), (words["total"], 15)] if paired else [("ml", 20)]
    columns += [(f"{words['share']}, %", 15)]
    columns += [(f"{words['asymmetry']}, %", 20)] if paired else []
    if report.norms:
        columns += [(f"{words['percentile']} {left} / {right}" if paired else words["percentile"], 30)]
    columns += [(f"{words['range']}, ml", WIDTH - sum(width for _, width in columns))]
    header, widths = [text for text, _ in columns], [width for _, width in columns]
    rows = content.table.rows()
    cells = [_volume_cells(row, paired=paired, norms=bool(report.norms)) for row in rows]
    sheet.rows(header, cells, widths, colors=[row.colors[0] for row in rows])
    for note in content.table.notes():
        sheet.paragraph(note, 7.5, SOFT)


def _volume_cells(row: VolumeRow, *, paired: bool, norms: bool) -> list[str]:
    # A structure stands in the column of a side only if it has this side.
    place = {"left": 0, "right": 1}.get(row.side, 2)
    alone = [*[""] * place, *row.volumes, *[""] * (2 - place)]
    volumes = [*row.volumes, row.total] if len(row.volumes) == 2 else alone
    cells = [row.name, *(volumes if paired else row.volumes), row.share, *([row.asymmetry] if paired else [])]
    percentiles = " / ".join(text or "–" for text in row.percentiles) if any(row.percentiles) else ""
    return [*cells, *([percentiles] if norms else []), row.range]


def _changes(sheet: Sheet, content: Content) -> None:
    words, changes = content.words, content.changes
    if changes is None:
        return
    sheet.heading(words["change"])
    header = [words["earlier"], words["light"], words["contrast"], words["voxels"], words["bundle"]]
    sheet.rows(header, changes.studies(), [30.0, 40, 25, 45, 40], text_columns=5)
    rows = changes.rows()
    for i, date in enumerate(changes.dates):
        header = [words["structure"], f"{words['now']}, ml", f"{date}, ml", words["change_ml"]]
        cells = [[row.name, row.now, *row.earlier[i]] for row in rows]
        sheet.rows([*header, words["change_percent"]], cells, [60.0, 30, 30, 25, 35])
    for note in changes.notes():
        sheet.paragraph(note, 7.5, SOFT)
    if figures := content.change_figures():
        sheet.figures(figures, 3)


def _restoration(sheet: Sheet, content: Content) -> None:
    words = content.words
    if rows := content.restoration():
        sheet.heading(words["restoration"])
        sheet.rows(["", words["before"], words["after"]], rows, [90.0, 30, 30])


def _pictures(sheet: Sheet, content: Content) -> None:
    sheet.add_page()
    sheet.heading(content.words["pictures"])
    for note in content.picture_notes():
        sheet.paragraph(note, 7.5, SOFT)
    sheet.ln(1)
    sheet.legend(content.table.legend())
    sheet.figures(content.figures(), 3)
    if overview := content.overview():
        sheet.figures([overview], 1)
    if surface := content.surface():
        sheet.figures([surface], 1, WIDTH * 0.75)


def _provenance(sheet: Sheet, content: Content) -> None:
    rows = list(content.provenance())
    # All on one page: a page of its own for the last row would look like a mistake.
    sheet.heading(content.words["provenance"], sheet.height_of_pairs(rows))
    sheet.pairs(rows)
