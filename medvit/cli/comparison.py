"""`medvit evaluate` and `medvit bench`: results against references, and bundles against each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.options import Amp, Backend, Device, Output, Studies, Tf32, Trust
from medvit.cli.talk import Answer, answering
from medvit.runs.options import checked_output

bench = typer.Typer(no_args_is_help=True, help="Compare bundles in quality and cost, on the same studies.")


@answering
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="Label map, or a folder of them.", metavar="PRED")],
    reference: Annotated[
        Path, typer.Argument(help="Reference label map, or a folder of them.", metavar="REF")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for CSV, JSON and the page. Default: print only.",
            callback=lambda folder: folder if folder is None else checked_output(folder),
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE", help="Name of a label table, manifest, or JSON file with names of values."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, metavar="MM", help="Tolerance of the surface Dice in mm.")
    ] = 1.0,
    lesions: Annotated[bool, typer.Option(help="Score lesion by lesion as well (BraTS 2023).")] = False,
    centreline: Annotated[
        bool, typer.Option(help="Score the centre lines of tubular structures as well.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(help="Read PRED as probability maps (4D) and score their calibration as well."),
    ] = False,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Compare images, not label maps, within these intensities."),
    ] = None,
) -> Answer:
    """Compare label maps with references (overlap, distances in mm, volumes), or restored images."""
    from medvit.evaluation import Options, evaluate

    options = Options(tolerance, lesions, centreline, probabilities, window)
    done = evaluate(prediction, reference, output, labels=labels, options=options)
    return Answer(done.as_dict(), "", done.exit_code, done.why)


@bench.command()
@answering
def brain(
    output: Output,
    atlases: Annotated[
        Path | None, typer.Option(help="Folder of atlases in MNI space, with which the template is compared.")
    ] = None,
    label_maps: Annotated[
        Path | None, typer.Option(help="Folder of label maps from which synthetic studies are made.")
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(help="Part of the name of a label map to use; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Manifest of your own studies, or a folder of images and label maps.")
    ] = None,
    manual: Annotated[
        Path | None,
        typer.Option(help="Manifest of manually segmented studies, or a folder of images and label maps."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Meaning of the manual label values: neuromorphometrics, freesurfer or a JSON file."
        ),
    ] = None,
    manual_cases: Annotated[
        int | None, typer.Option(min=1, help="Number of manually segmented studies to use. Default: all.")
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="NAME=FOLDER",
            help="Published network to compare with (brainchop); may be repeated.",
        ),
    ] = None,
    bundles: Annotated[
        list[str] | None,
        typer.Option("--bundle", help="Bundle to compare; may be repeated. Default: all brain bundles."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for studies and label maps; finished work in it is kept.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many times the first study is timed.")] = 3,
    device: Device = "auto",
    amp: Amp = "off",
    tf32: Tf32 = False,
    backend: Backend = "torch",
    date: Annotated[str, typer.Option(help="Date shown on the page.")] = "",
    trust: Trust = False,
) -> Answer:
    """Run the brain bundles on the template, on synthetic and on your own studies: tables and plots."""
    from medvit.bundles import find_bundle

    found = [find_bundle(name, trust=trust) for name in bundles] if bundles else None
    from medvit.bench import BenchOptions, bench_brain, read_peer

    beside = [read_peer(peer) for peer in peers or ()]
    options = BenchOptions(
        atlases,
        label_maps,
        data=data,
        rounds=rounds,
        device=device,
        amp=amp,
        tf32=tf32,
        backend=backend,
        date=date,
    )
    if held_out:
        options = replace(options, held_out=tuple(held_out))
    options = replace(options, manual=manual, protocol=protocol, manual_cases=manual_cases)
    code = bench_brain(output, options, bundles=found, peers=beside, work_dir=work)
    return _figures(output / "bench.json", code)


@bench.command()
@answering
def restore(
    studies: Studies,
    output: Output,
    bundles: Annotated[
        list[str] | None,
        typer.Option("--bundle", help="Super-resolution bundle to compare; may be repeated."),
    ] = None,
    factor: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Voxels between centres of slices (default 4) or, with --in-plane, of pixels (2).",
        ),
    ] = None,
    thickness: Annotated[
        float | None, typer.Option(min=0.5, help="Thickness of a slice in voxels. Default: the factor.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Sensitivity across a slice: box or gauss.")] = "box",
    noise: Annotated[
        float, typer.Option(help="Noise of the coarse images, as a share of the brightest tissue.")
    ] = 0.0,
    plane: Annotated[str, typer.Option(help="Plane of the slices: axial, coronal or sagittal.")] = "axial",
    cut: Annotated[
        int | None, typer.Option(min=32, help="Edge in voxels of the cube that is compared. Default: all.")
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(help="Bundle that segments results and truth; their label maps are compared."),
    ] = None,
    in_plane: Annotated[
        bool, typer.Option("--in-plane", help="Make the pixels of slices coarse instead of the slices thick.")
    ] = False,
    device: Device = "auto",
    trust: Trust = False,
) -> Answer:
    """Make real studies of about 1 mm coarse and restore them by bundles and by classical methods."""
    from medvit.bundles import find_bundle

    found = [find_bundle(name, trust=trust) for name in bundles or ()]
    from medvit.bench import RestoreOptions, bench_restore

    options = RestoreOptions(factor, thickness, profile, noise, plane, cut, segmenter, in_plane)
    code = bench_restore(studies, output, options, bundles=found, device=device)
    return _figures(output / "restore.json", code)


def _figures(written: Path, exit_code: int) -> Answer:
    figures = json.loads(written.read_text(encoding="utf-8"))
    return Answer(figures, "", exit_code, f"{written.with_suffix('.md')} says why")
