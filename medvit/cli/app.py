"""The `medvit` command: every verb calls one function of the library, which is imported when it is called."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from medvit import __version__
from medvit.errors import MedvitError

app = typer.Typer(
    name="medvit",
    help="Transformers that segment and restore medical images, as MONAI bundles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Studies = Annotated[
    list[str], typer.Argument(help="Files, folders, globs or manifests (JSON, CSV).", metavar="STUDY...")
]
BundleName = Annotated[
    str, typer.Argument(help="Name of an installed bundle, or a bundle folder with --trust.")
]
Trust = Annotated[
    bool, typer.Option(help="Run the configuration of a bundle folder that did not come with medvit.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Overlap = Annotated[float | None, typer.Option(help="Share by which windows overlap, 0 to below 1.")]
Tta = Annotated[bool, typer.Option(help="Average over left-right mirrored images as well.")]
Report = Annotated[bool, typer.Option(help="Write report.html.")]
Pdf = Annotated[bool, typer.Option(help="Write report.pdf.")]
AsDicom = Annotated[bool, typer.Option(help="Write DICOM SEG, SR and PDF for studies that came as DICOM.")]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="Take out of DICOM results what could identify a person.")
]
Viewer = Annotated[bool, typer.Option(help="Put an interactive viewer into report.html.")]
Language = Annotated[str, typer.Option(help="Of the reports: en, de or fr.")]
ShowPatient = Annotated[bool, typer.Option(help="Name the patient in reports.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
# A command that hands its arguments to an app of its own, which is imported when it is called.
_SUB_APP: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    "add_help_option": False,
}


def main() -> None:
    """Entry point: an error that the user can put right is one sentence and exit code 1."""
    try:
        app()
    except Exception as error:
        if (cause := _cause(error)) is None:
            raise
        typer.echo(f"medvit: {cause}", err=True)
        sys.exit(1)


def _cause(error: BaseException | None) -> MedvitError | None:
    # MONAI raises an error of its own from one that occurs while a configuration is evaluated.
    while error is not None and not isinstance(error, MedvitError):
        error = error.__cause__
    return error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _overrides(device: str, overlap: float | None, **flags: Any) -> dict[str, Any]:
    overrides: dict[str, Any] = dict(flags)
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    if overlap is not None:
        overrides["overlap"] = overlap
    return overrides


@app.command()
def run(
    bundle: BundleName,
    studies: Studies,
    output: Output,
    device: Device = "auto",
    overlap: Overlap = None,
    tta: Tta = False,
    report: Report = True,
    pdf: Pdf = False,
    dicom: AsDicom = False,
    anonymous: Deidentify = False,
    viewer: Viewer = False,
    language: Language = "en",
    prior: Annotated[
        list[str] | None, typer.Option(help="measurements.json of an earlier study, to compare with.")
    ] = None,
    show_patient: ShowPatient = False,
    trust: Trust = False,
) -> None:
    """Segment or restore studies: label maps, measurements and reports go to OUTPUT."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=trust)
    overrides = _overrides(
        device, overlap, tta=tta, report=report, viewer=viewer, pdf=pdf, dicom=dicom,
        deidentify=anonymous, language=language, priors=prior or [], show_patient=show_patient,
    )  # fmt: skip
    from medvit.runs import run_bundle

    raise typer.Exit(run_bundle(found, studies, output, **overrides))


@app.command()
def cohort(
    bundle: BundleName,
    studies: Studies,
    output: Output,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes on this machine; 0: one a CPU, at most four.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option(help="Keep studies that are done with this input and these settings.")
    ] = True,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers do the studies.")
    ] = "",
    time_limit: Annotated[
        float | None, typer.Option(min=1.0, metavar="SECONDS", help="What a study may take.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts after a failure that may pass.")] = 1,
    device: Device = "auto",
    overlap: Overlap = None,
    tta: Tta = False,
    report: Report = True,
    pdf: Pdf = False,
    dicom: AsDicom = False,
    anonymous: Deidentify = False,
    viewer: Viewer = False,
    language: Language = "en",
    show_patient: ShowPatient = False,
    trust: Trust = False,
) -> None:
    """Segment or restore many studies, each on its own, in several processes; run it again to resume."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=trust)
    overrides = _overrides(
        device, overlap, tta=tta, report=report, viewer=viewer, pdf=pdf, dicom=dicom,
        deidentify=anonymous, language=language, show_patient=show_patient,
    )  # fmt: skip
    from medvit.runs import run_cohort

    exit_code = run_cohort(
        found,
        studies,
        output,
        workers=workers,
        resume=resume,
        scheduler=scheduler,
        time_limit=time_limit,
        retries=retries,
        gpu=device.startswith("cuda"),
        **overrides,
    )
    raise typer.Exit(exit_code)


@app.command()
def status(
    output: Annotated[Path, typer.Argument(help="Folder of a cohort's results.", metavar="OUTPUT")],
    as_json: AsJson = False,
) -> None:
    """Where a cohort stands: done, running, failed and why, rate and time left."""
    from medvit.runs.status import read_status

    now = read_status(output)
    typer.echo(json.dumps(now.as_dict(), indent=2) if as_json else str(now))


@app.command()
def label(
    studies: Annotated[
        str, typer.Argument(help="Folder of images, or the address of a DICOMweb service.", metavar="STUDIES")
    ],
    models: Annotated[
        list[str] | None, typer.Option(help="Bundle to serve; may be repeated. Default: all installed.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; others than loopback need --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="MEDVIT_LABEL_TOKEN", help="What clients must know to be let in.")
    ] = "",
    workspace: Annotated[
        Path | None, typer.Option(help="Folder for trained versions and fetched series.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Serve bundles to 3D Slicer and other viewers, over MONAI Label."""
    from medvit.label.launch import serve

    code = serve(
        studies, models=models or (), trust=trust, host=host, port=port, token=token, folder=workspace,
        say=typer.echo,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def train(
    bundle: BundleName,
    manifest: Annotated[
        str, typer.Argument(help="YAML or JSON; or the dataset.json of MSD or nnU-Net.", metavar="MANIFEST")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set. Default: that of the manifest.")
    ] = None,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="X Y Z", help="mm: left-right, front-back, feet-head."),
    ] = None,
    patch_size: Annotated[
        tuple[int, int, int] | None, typer.Option(metavar="X Y Z", help="Voxels of a window, likewise.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 100,
    epoch_length: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of an epoch.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of a step.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at the beginning.")] = 5e-4,
    val_fraction: Annotated[float, typer.Option(help="Share of patients to validate on.")] = 0.2,
    patience: Annotated[int, typer.Option(min=0, help="Epochs without gain to stop after; 0: never.")] = 20,
    mirror: Annotated[bool | None, typer.Option(help="Mirror windows left to right.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    device: Device = "auto",
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for prepared cases, about 3 bytes a voxel.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave broken cases out instead of refusing.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a training that was broken off.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show the plan and stop.")] = False,
    trust: Trust = False,
) -> None:
    """Train a bundle's network on your labelled studies; the result is a bundle that runs."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=trust)
    from medvit.training import Choices, train_bundle

    choices = Choices(
        spacing, patch_size, epochs, epoch_length, batch_size, learning_rate, val_fraction, seed, patience,
        mirror, device,
    )  # fmt: skip
    train_bundle(
        found, manifest, output, choices, data=data or "", scratch=scratch, resume=resume,
        skip_bad=skip_bad, plan_only=plan,
    )  # fmt: skip


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="Label map, or a folder of them.", metavar="PRED")],
    reference: Annotated[Path, typer.Argument(help="The same of the references.", metavar="REF")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for CSV, JSON and the page.")],
    labels: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Label table: its name, or a JSON file of names.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, metavar="MM", help="Of the surface Dice.")] = 1.0,
    lesions: Annotated[bool, typer.Option(help="Score lesion by lesion as well (BraTS 2023).")] = False,
    centreline: Annotated[bool, typer.Option(help="Score the centre-lines of tubes as well.")] = False,
    probabilities: Annotated[
        bool, typer.Option(help="PRED are probability maps (4D): score their calibration as well.")
    ] = False,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Compare images, not label maps, within these values."),
    ] = None,
) -> None:
    """Compare label maps with references (overlap, distances in mm, volumes), or restored images."""
    from medvit.evaluation import Options, evaluate

    options = Options(tolerance, lesions, centreline, probabilities, window)
    raise typer.Exit(evaluate(prediction, reference, output, labels=labels, options=options))


bench = typer.Typer(no_args_is_help=True, help="Compare bundles in quality and cost, on the same studies.")
app.add_typer(bench, name="bench")


@bench.command()
def brain(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for bench.md and its pictures.")],
    atlases: Annotated[
        Path | None, typer.Option(help="Folder of atlases in MNI space, to compare the template with.")
    ] = None,
    label_maps: Annotated[
        Path | None, typer.Option(help="Folder of label maps to make synthetic studies from.")
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="Part of the name of a label map to take; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Own studies: a manifest, or a folder of images with label maps.")
    ] = None,
    bundles: Annotated[
        list[str] | None, typer.Option("--bundle", help="May be repeated. Default: all brain bundles.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for studies and label maps; what is done there is kept.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often the first study is timed.")] = 3,
    device: Device = "auto",
    date: Annotated[str, typer.Option(help="For the page.")] = "",
    trust: Trust = False,
) -> None:
    """The brain bundles on the template, on synthetic and on your own studies: tables and plots."""
    from medvit.bundles import find_bundle

    found = [find_bundle(name, trust=trust) for name in bundles] if bundles else None
    from medvit.bench import BenchOptions, bench_brain

    options = BenchOptions(atlases, label_maps, data=data, rounds=rounds, device=device, date=date)
    if held_out:
        options = replace(options, held_out=tuple(held_out))
    raise typer.Exit(bench_brain(output, options, bundles=found, work_dir=work))


@app.command(name="list")
def list_bundles(as_json: AsJson = False) -> None:
    """The installed bundles and how good they are."""
    from medvit.bundles import installed_bundles

    bundles = installed_bundles()
    if as_json:
        typer.echo(json.dumps([{"name": b.name, **b.summary()} for b in bundles], indent=2))
        return
    width = max((len(b.name) for b in bundles), default=0)
    for b in bundles:
        typer.echo(f"{b.name:{width}}  {b.version:8} {b.metadata['task']}")
        typer.echo(f"{'':{width}}  {b.facts.get('quality', 'quality not measured')}")


@app.command()
def info(bundle: BundleName, as_json: AsJson = False) -> None:
    """What a bundle does, on what, how well, and which labels it writes."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=True)
    if as_json:
        typer.echo(json.dumps(found.metadata, indent=2))
        return
    summary = found.summary()
    for key, value in summary.items():
        typer.echo(f"{key:12} {value}")
    for structure in found.label_table or ():
        typer.echo(f"  {structure.value:3}  {structure.name}  (SNOMED CT {structure.code.value})")


@app.command()
def check(studies: Studies, as_json: AsJson = False) -> None:
    """Look at the headers of studies and say what would be read or refused, and why."""
    from medvit.studies.check import check_studies

    checked = check_studies(studies)
    if as_json:
        typer.echo(json.dumps([c.as_dict() for c in checked], indent=2))
    else:
        for c in checked:
            typer.echo(str(c))
    raise typer.Exit(0 if checked and all(c.ok for c in checked) else 3 if checked else 2)


@app.command(**_SUB_APP)
def data(context: typer.Context) -> None:
    """Check the folder of a data set against its manifest (`medvit data --help`)."""
    from medvit.cli.data import app as data_app

    data_app(context.args, prog_name="medvit data")


@app.command()
def convert(
    network: Annotated[str, typer.Argument(help="Such as SegFormer3D or SwinUNETR.")],
    checkpoint: Annotated[Path, typer.Argument(help="The authors' file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
    labels: Annotated[str, typer.Option(help="Names in order of channels, or a JSON label table.")] = "",
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="X Y Z", help="mm: left-right, front-back, feet-head."),
    ] = None,
    roi: Annotated[
        tuple[int, int, int] | None, typer.Option(metavar="X Y Z", help="Voxels of a window, likewise.")
    ] = None,
    intensity: Annotated[
        str, typer.Option(help="percentile, zscore, zscore:nonzero or window:LOW:HIGH[:MEAN:STD].")
    ] = "",
    paint_order: Annotated[
        str, typer.Option(metavar="N,N,...", help="Channels are regions that overlap, painted so.")
    ] = "",
    orientation: Annotated[str, typer.Option(help="Where the array's axes run to, such as RAS.")] = "",
    channels: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Contrasts of a study's images, such as flair,t1.")
    ] = "",
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Argument of the network.")
    ] = None,
) -> None:
    """Turn a published checkpoint into a bundle that runs."""
    from medvit.bundles.convert import (
        ConversionSettings,
        convert_checkpoint,
        parse_assignments,
        parse_numbers,
    )

    settings = ConversionSettings(
        labels,
        spacing,
        roi,
        intensity,
        parse_numbers(paint_order),
        orientation,
        tuple(name.strip() for name in channels.split(",") if name.strip()),
        parse_assignments(assign or []),
    )
    bundle = convert_checkpoint(network, checkpoint, output, settings)
    typer.echo(f"{bundle.path} is ready; what was taken for granted stands in docs/README.md")


@app.command(**_SUB_APP)
def pacs(context: typer.Context) -> None:
    """Fetch from a PACS and store in it, over DICOMweb (`medvit pacs --help`)."""
    from medvit.cli.pacs import app as pacs_app

    pacs_app(context.args, prog_name="medvit pacs")


@app.command()
def deidentify(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM images.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the copies.")],
    dates: Annotated[str, typer.Option(help="remove or shift.")] = "remove",
) -> None:
    """Copy DICOM images without what could identify a person (DICOM PS3.15, Basic Profile)."""
    from medvit.studies.deidentify import Profile, deidentify_folder

    if dates not in ("remove", "shift"):
        raise MedvitError(f"--dates must be remove or shift, not {dates!r}")
    done = deidentify_folder(folder, output, Profile(dates="shift" if dates == "shift" else "remove"))
    typer.echo(f"{len(done.files)} images written, {len(done.left_out)} files left out")
    for path, why in done.left_out:
        typer.echo(f"  left out: {path}: {why}")


if __name__ == "__main__":
    main()
