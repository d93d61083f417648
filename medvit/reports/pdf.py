"""The report as a PDF of A4 pages, drawn with matplotlib."""

from __future__ import annotations

from pathlib import Path

from medvit.reports.content import Content, Figure, VolumeRow
from medvit.reports.language import load_language
from medvit.reports.report import StudyReport
from medvit.reports.sheet import MARGIN, SOFT, WIDTH, Sheet, broken
from medvit.studies.files import atomic_path

LAMPS = {"green": "#1a8a3a", "amber": "#f2a900", "red": "#c4162a"}


def write_pdf(
    report: StudyReport, path: Path | str, *, language: str = "en", show_patient: bool = False
) -> Path:
    """Write the report as a PDF of A4 pages with the same words, figures and colours as the HTML.

    Parameters
    ----------
    report
        What to say.
    path
        Of the file; it appears whole or not at all.
    language, show_patient
        As in `write_html`.

    Raises
    ------
    MedvitError
        If there is no such language.
    """
    content = Content(report, load_language(language), show_patient=show_patient)
    words, sheet = content.words, Sheet()
    for section in (_head, _quality, _volumes, _changes, _restoration, _pictures, _provenance):
        section(sheet, content)
    title = f"{words['title']}: {report.study_id}"
    with atomic_path(path) as partial:
        partial.write_bytes(sheet.to_pdf(title, words["research_use"], words["page"]))
    return Path(path)


def _head(sheet: Sheet, content: Content) -> None:
    words = content.words
    sheet.write(MARGIN, words["title"], 16, bold=True)
    sheet.y += 9
    sheet.box(
        MARGIN,
        sheet.y,
        WIDTH,
        3.5 + 4.5 * len(broken(words["research_use"], WIDTH - 3, 9)),
        "#fff6dc",
        "#b98b00",
    )
    sheet.y += 1.8
    sheet.paragraph(words["research_use"], indent=3)
    sheet.y += 4
    sheet.pairs(content.facts())


def _quality(sheet: Sheet, content: Content) -> None:
    words, light = content.words, content.report.light
    sheet.heading(words["quality"])
    sheet.lamp(LAMPS[light])
    sheet.write(MARGIN + 8, words[light], 11, bold=True)
    sheet.y += 7.5
    if not content.report.flags:
        sheet.paragraph(words["no_flags"])
    for flag in content.flags():
        sheet.need(12)
        sheet.paragraph(f"{flag['sign']} {flag['name']}: {flag['seen']}")
        sheet.paragraph(f"{words['do']}: {flag['do']}", 8, SOFT, indent=4)
        sheet.y += 1.5


def _volumes(sheet: Sheet, content: Content) -> None:
    words, report = content.words, content.report
    if not report.table:
        return
    sheet.heading(words["measurements"])
    left, right = words["left"], words["right"]
    header = [words["structure"], f"ml {left}", right, f"% {left}", right, f"{words['asymmetry']}, %"]
    header.append(f"{words['range']}, ml")
    edges = [60.0, 73, 85, 96, 115, 139] if report.image is not None else [75.0, 92, 109, 124, 147, 180]
    if report.image is not None:
        header.append(f"{words['intensity']}, {report.unit}")
        edges.append(180)
    rows = content.volumes()
    cells = [_volume_cells(row, with_intensity=report.image is not None) for row in rows]
    sheet.table(header, cells, edges, [row.colors[0] for row in rows])
    sheet.y += 1.5
    for note in content.table_notes():
        sheet.paragraph(note, 7.5, SOFT)


def _volume_cells(row: VolumeRow, *, with_intensity: bool) -> list[str]:
    """A pair has its sides in columns of their own; what is unpaired stands in the first of the two."""
    volumes, shares = (list(texts) + [""] * (2 - len(texts)) for texts in (row.volumes, row.shares))
    cells = [row.name, *volumes, *shares, row.asymmetry, row.range]
    return [*cells, " | ".join(row.intensities)] if with_intensity else cells


def _changes(sheet: Sheet, content: Content) -> None:
    words = content.words
    dates, rows = content.changes()
    for i, date in enumerate(dates):
        sheet.heading(f"{words['change']}: {date}")
        header = [words["structure"], f"{words['now']}, ml", f"{date}, ml", words["change_ml"]]
        header.append(words["change_percent"])
        cells = [[row.name, row.now, *row.earlier[i]] for row in rows]
        sheet.table(header, cells, [95, 125, 153, 180], [])
    if dates:
        sheet.y += 1.5
        sheet.paragraph(words["change_note"], 7.5, SOFT)


def _restoration(sheet: Sheet, content: Content) -> None:
    words = content.words
    if rows := content.restoration():
        sheet.heading(words["restoration"])
        sheet.table(["", words["before"], words["after"]], rows, [120, 150], [])


def _pictures(sheet: Sheet, content: Content) -> None:
    words = content.words
    sheet.turn()
    sheet.heading(words["pictures"])
    for note in content.picture_notes():
        sheet.paragraph(note, 7.5, SOFT)
    sheet.y += 1
    _legend(sheet, content)
    _in_columns(sheet, content.figures(), 3)
    if overview := content.overview():
        _in_columns(sheet, [overview], 1)
    if surface := content.surface():
        _in_columns(sheet, [surface], 1, WIDTH * 0.75)


def _legend(sheet: Sheet, content: Content) -> None:
    entries = content.legend()
    columns = 4
    for start in range(0, len(entries), columns):
        sheet.need(4.5)
        for i, (color, name) in enumerate(entries[start : start + columns]):
            x = MARGIN + i * WIDTH / columns
            sheet.box(x, sheet.y + 0.3, 2.8, 2.8, color, "#55606c")
            sheet.write(x + 4, name, 7.5)
        sheet.y += 4.2
    sheet.y += 2


def _in_columns(sheet: Sheet, figures: list[Figure], columns: int, width: float = WIDTH) -> None:
    """Pictures side by side; a row goes to the next page when it does not fit."""
    gap = 3.0
    each = (width - gap * (columns - 1)) / columns
    for start in range(0, len(figures), columns):
        row = figures[start : start + columns]
        tallest = max(f.picture.pixels.shape[0] / f.picture.pixels.shape[1] for f in row)
        sheet.need(each * tallest + 14)
        heights = [sheet.figure(f, MARGIN + i * (each + gap), each) for i, f in enumerate(row)]
        sheet.y += max(heights) + 2


def _provenance(sheet: Sheet, content: Content) -> None:
    sheet.heading(content.words["provenance"])
    sheet.pairs(content.provenance())
