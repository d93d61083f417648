"""`medvit list`, `medvit info` and `medvit convert`: the bundles at hand, and new ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.options import BundleName, Output, Spacing, Trust, WindowSize
from medvit.cli.talk import Answer, answering

if TYPE_CHECKING:
    from medvit.bundles import Bundle


@answering
def list_bundles() -> Answer:
    """List the installed bundles and how good they are."""
    from medvit.bundles import installed_bundles

    bundles = installed_bundles()
    width = max((len(b.name) for b in bundles), default=0)
    lines = []
    for b in bundles:
        lines.append(f"{b.name:{width}}  {b.version:8} {b.metadata['task']}")
        for result in _comparable_first(b, bundles) or ["quality not measured"]:
            lines.append(f"{'':{width}}  {result}")
    return Answer([{"name": b.name, **b.summary()} for b in bundles], "\n".join(lines))


def _comparable_first(bundle: Bundle, bundles: list[Bundle]) -> list[str]:
    """The measured results of a bundle, one for each test set; those that most bundles share stand first."""
    sets = Counter(result.partition(":")[0] for b in bundles for result in _results(b))
    return sorted(_results(bundle), key=lambda result: -sets[result.partition(":")[0]])


def _results(bundle: Bundle) -> list[str]:
    return [result for result in bundle.facts.get("quality", "").split("; ") if result]


@answering
def info(bundle: BundleName) -> Answer:
    """Show what a bundle does, on what, how well, and which labels it writes."""
    from medvit.bundles import find_bundle

    found = find_bundle(bundle, trust=True)
    lines = [f"{key:12} {value}" for key, value in found.summary().items()]
    for structure in found.label_table or ():
        code = structure.code
        # Schemes whose names begin with 99 are private (DICOM PS3.16 section 8).
        scheme = "private code" if code.scheme.startswith("99") else code.scheme.replace("SCT", "SNOMED CT")
        lines.append(f"  {structure.file_value:3}  {structure.name}  ({scheme} {code.value})")
    return Answer(found.metadata, "\n".join(lines))


@answering
def convert(
    network: Annotated[str, typer.Argument(help="Name of the network, such as SegFormer3D or SwinUNETR.")],
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint file of the authors.")],
    output: Output,
    labels: Annotated[
        str, typer.Option(help="Names of the labels in the order of the channels, or a JSON label table.")
    ] = "",
    spacing: Spacing = None,
    roi: WindowSize = None,
    intensity: Annotated[
        str,
        typer.Option(
            help="Intensity scaling: percentile, zscore, zscore:nonzero or window:LOW:HIGH[:MEAN:STD]."
        ),
    ] = "",
    paint_order: Annotated[
        str,
        typer.Option(metavar="N,N,...", help="Order in which channels are painted that are nested regions."),
    ] = "",
    orientation: Annotated[
        str, typer.Option(help="Directions of the network's array axes, such as RAS.")
    ] = "",
    channels: Annotated[
        str,
        typer.Option(metavar="NAME,NAME,...", help="Contrasts of the images of a study, such as flair,t1."),
    ] = "",
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Argument of the network; may be repeated."),
    ] = None,
) -> Answer:
    """Turn a published checkpoint into a bundle that runs."""
    from medvit.bundles.convert import (
        ConversionSettings,
        convert_checkpoint,
        parse_assignments,
        parse_numbers,
    )

    settings = ConversionSettings(
        labels, spacing, roi, intensity, parse_numbers(paint_order), orientation,
        tuple(name.strip() for name in channels.split(",") if name.strip()), parse_assignments(assign or []),
    )  # fmt: skip
    bundle = convert_checkpoint(network, checkpoint, output, settings)
    text = f"{bundle.path} is ready; what was taken for granted stands in docs/README.md"
    return Answer({"name": bundle.name, **bundle.summary()}, text)


@answering
def export(
    bundle: BundleName,
    output: Output,
    form: Annotated[
        str,
        typer.Option("--format", help="onnx, torchscript, zoo (a zip that runs without medvit), or bundle."),
    ] = "onnx",
    trust: Trust = False,
) -> Answer:
    """Write the network of a bundle as ONNX or TorchScript, or the bundle as a zip, for the model zoo."""
    from medvit.bundles import export_bundle, find_bundle

    file = export_bundle(find_bundle(bundle, trust=trust), output, form)
    return Answer({"file": str(file), "format": form}, str(file))
