"""`medvit run`, `medvit cohort` and `medvit status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvit.cli.monai_import import import_monai_for
from medvit.cli.options import PATIENT, BundleName, Output, Studies, Trust, fit_settings, inference_settings
from medvit.cli.talk import Answer, answering, sharing
from medvit.exits import NOTHING_TO_DO
from medvit.runs.options import checked_priors

if TYPE_CHECKING:
    from medvit.bundles import Bundle


@answering
@sharing(inference_settings)
def run(
    bundle: BundleName,
    studies: Studies,
    output: Output,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=PATIENT,
            help="measurements.json of an earlier study to compare with, or FILE@YYYY-MM-DD where it states "
            "no date; may be repeated.",
            callback=lambda paths: checked_priors(paths or ()),
        ),
    ] = None,
    age: Annotated[
        float | None,
        typer.Option(
            min=0, max=120, rich_help_panel=PATIENT, help="Age in years at the time of the study, for norms."
        ),
    ] = None,
    sex: Annotated[
        str | None,
        typer.Option(metavar="F|M", rich_help_panel=PATIENT, help="Sex of the patient, for norms."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD", rich_help_panel=PATIENT, help="Date of the study; the report shows it."
        ),
    ] = None,
    trust: Trust = False,
    *,
    settings: dict[str, Any],
) -> Answer:
    """Segment or restore studies; write label maps, measurements and reports to OUTPUT."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=trust)
    fit_settings(found, settings)
    _begin(found)
    from medvit.runs import run_bundle

    stated = {"age": age, "sex": sex, "study_date": date}
    settings |= {name: value for name, value in stated.items() if value is not None}
    return _record(output, run_bundle(found, studies, output, priors=prior or [], **settings))


@answering
@sharing(inference_settings)
def cohort(
    bundle: BundleName,
    studies: Studies,
    output: Output,
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Number of processes on this machine; 0 for one for each CPU, at most four."
        ),
    ] = 0,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers process the studies.")
    ] = "",
    time_limit: Annotated[
        float | None,
        typer.Option(min=1.0, metavar="SECONDS", help="Longest time that a study may take."),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Number of further attempts after a failure that may be temporary.")
    ] = 1,
    trust: Trust = False,
    *,
    settings: dict[str, Any],
) -> Answer:
    """Segment or restore many studies in several processes; run it again to resume."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=trust)
    fit_settings(found, settings)
    _begin(found)
    from medvit.runs import run_cohort

    exit_code = run_cohort(
        found, studies, output, workers=workers, scheduler=scheduler, time_limit=time_limit,
        retries=retries, gpu="cuda" in settings.get("device", ""), **settings,
    )  # fmt: skip
    return _record(output, exit_code)


def _begin(bundle: Bundle) -> None:
    # The next calls import torch, which takes seconds.
    typer.echo(f"{bundle.name} {bundle.version}: looking for studies", err=True)
    import_monai_for(bundle)


def _record(output: Path, exit_code: int) -> Answer:
    if exit_code == NOTHING_TO_DO:
        return Answer({"error": "no study was found"}, "", exit_code, "no study was found")
    record = output / "run.json"
    document = json.loads(record.read_text(encoding="utf-8"))
    return Answer(document, "", exit_code, f"{record} says why")


@answering
def status(
    output: Annotated[Path, typer.Argument(help="Folder with the results of a run.", metavar="OUTPUT")],
) -> Answer:
    """Show the state of a run: studies done, running and failed (and why), the rate, and the time left."""
    from medvit.runs.status import read_status

    now = read_status(output)
    return Answer(now.as_dict(), str(now))
