"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from medvit.reports.content import Content, Figure
from medvit.reports.language import load_language
from medvit.reports.report import StudyReport
from medvit.reports.viewer import niivue_code, viewer_data
from medvit.studies.files import atomic_path


@cache
def templates() -> Environment:
    """The templates, with autoescaping, so that no header's text becomes markup."""
    environment = Environment(
        loader=PackageLoader("medvit.reports"),
        autoescape=select_autoescape(["html", "j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(figure: Figure) -> str:
    """A picture as the text of an ``img``'s ``src``."""
    return "data:image/jpeg;base64," + base64.b64encode(figure.picture.encode()).decode()


def write_html(
    report: StudyReport,
    path: Path | str,
    *,
    language: str = "en",
    show_patient: bool = False,
    viewer: bool = False,
) -> Path:
    """Write the report as one self-contained HTML file that prints on A4 and Letter.

    Parameters
    ----------
    report
        Content of the report.
    path
        The file; it appears whole or not at all.
    language
        ``"en"``, ``"de"`` or ``"fr"``, or a locale that begins so.
    show_patient
        Whether to name the patient.
    viewer
        Whether to embed the interactive viewer, which adds about 2 MB.

    Raises
    ------
    MedvitError
        If the language is unknown.
    """
    content = Content(report, load_language(language), show_patient=show_patient)
    parts = {"data": viewer_data(content), "code": niivue_code()} if viewer else None
    template = templates().get_template("report.html.j2")
    page = template.render(c=content, words=content.words, report=report, viewer=parts)
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)
