"""`medvit verify` and `medvit quantize`: other engines for the networks of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.options import BundleName, Output, Trust
from medvit.cli.talk import Answer, answering
from medvit.exits import ALL_WELL, SOME_FAILED


@answering
def verify(
    bundle: BundleName,
    study: Annotated[
        Path | None, typer.Argument(help="Study whose windows are compared. Default: smooth noise.")
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="openvino|onnxruntime", help="Engine to compare with torch.")
    ] = "openvino",
    windows: Annotated[int, typer.Option(min=1, help="Number of windows.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="How many times each window is timed.")] = 3,
    trust: Trust = False,
) -> Answer:
    """Compare another engine with torch; exit code 3 if labels or logits differ."""
    from medvit.bundles import find_bundle
    from medvit.bundles.verify import verify_backend

    found = verify_backend(find_bundle(bundle, trust=trust), backend, study, windows=windows, rounds=rounds)
    return Answer(found.as_dict(), str(found), ALL_WELL if found.same_answer else SOME_FAILED)


@answering
def quantize(
    bundle: BundleName,
    output: Output,
    data: Annotated[
        list[str],
        typer.Option(metavar="STUDIES", help="Studies to calibrate on; may be repeated."),
    ],
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STUDIES", help="Studies to measure the loss on, instead of those; may be repeated."
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Label maps of the studies to measure on, in the bundle's values."
        ),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Number of windows to calibrate on.")] = 32,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Operations to keep in float32, by name; may be repeated."),
    ] = None,
    trust: Trust = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write the bundle even if quality was lost.")
    ] = False,
) -> Answer:
    """Quantise the network of a bundle to 8-bit integers; the new bundle runs by OpenVINO."""
    from medvit.bundles import find_bundle
    from medvit.bundles.quantize import quantize_bundle

    made = quantize_bundle(
        find_bundle(bundle, trust=trust), data, output,
        measure=measure or (), references=references, windows=windows, keep=keep or (), force=force,
    )  # fmt: skip
    text = f"{made.path} is ready: {made.facts['quality']}; docs/README.md has each structure"
    return Answer({"name": made.name, **made.summary()}, text)
