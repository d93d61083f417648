"""`medvit list`, `medvit info`, `medvit convert` and `medvit export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.completion import complete_bundles, words
from medvit.cli.options import BundleName, Output, Spacing, Trust, WindowSize
from medvit.cli.talk import Answer, answering

if TYPE_CHECKING:
    from medvit.bundles import Bundle


# Test sets on which several bundles were measured, with the key of the figure in `eval_metrics`.
_TEST_SETS = {
    "manual labels": "dice_deep_structures_manual",
    "template": "dice_deep_structures_mni152",
    "synthetic heads": "mean_dice_held_out_synthetic_heads",
}
_LEGEND = (
    "mean Dice of deep structures against manual labels and on the MNI152 template, and of all structures "
    "on held-out synthetic heads; blank where it was not measured"
)


@answering
def list_bundles() -> Answer:
    """List the installed bundles with their measured quality, side by side for shared test sets."""
    from medvit.bundles import installed_bundles

    bundles = installed_bundles()
    document = [{"name": b.name, **b.summary(), "dice": _comparable(b)} for b in bundles]
    width = max((len(b.name) for b in bundles), default=0)
    versions = max((len(b.version) for b in bundles), default=0)
    compared = [b for b in bundles if any(_comparable(b).values())]
    lines = [f"{'':{width}}  {'':{versions}}  {'  '.join(_TEST_SETS)}"] if compared else []
    for b in compared:
        cells = ("" if dice is None else f"{dice:.2f}" for dice in _comparable(b).values())
        columns = "  ".join(f"{cell:>{len(test)}}" for cell, test in zip(cells, _TEST_SETS, strict=True))
        lines.append(f"{b.name:{width}}  {b.version:{versions}}  {columns}".rstrip())
    lines += [f"({_LEGEND})", ""] if compared else []
    for b in bundles:
        lines.append(f"{b.name:{width}}  {b.version:{versions}}  {b.metadata['task']}")
        if b not in compared:
            lines += (f"{'':{width}}  {'':{versions}}  {result}" for result in _quality(b))
    return Answer(document, "\n".join(lines))


def _comparable(bundle: Bundle) -> dict[str, float | None]:
    """Figures of a bundle on each of the shared test sets; `None` where it was not measured."""
    measured = bundle.metadata.get("eval_metrics", {})
    return {test: measured.get(key) for test, key in _TEST_SETS.items()}


def _quality(bundle: Bundle) -> list[str]:
    return str(bundle.facts.get("quality", "not measured")).split("; ")


@answering
def info(
    bundle: Annotated[
        str,
        typer.Argument(
            help="Name of an installed bundle, or a bundle folder.", autocompletion=complete_bundles
        ),
    ],
) -> Answer:
    """Show a bundle's purpose, input, measured quality and labels."""
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
        typer.Option(metavar="N,N,...", help="Order in which the channels of nested regions are painted."),
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
    text = f"{bundle.path} is ready; its docs/README.md lists the assumptions"
    return Answer({"name": bundle.name, **bundle.summary()}, text)


@answering
def export(
    bundle: BundleName,
    output: Output,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, torchscript, zoo (a zip that runs without medvit), or bundle.",
            autocompletion=words("onnx", "torchscript", "zoo", "bundle"),
        ),
    ] = "onnx",
    trust: Trust = False,
) -> Answer:
    """Write the network of a bundle as ONNX or TorchScript, or the bundle as a zip, for the model zoo."""
    from medvit.bundles import export_bundle, find_bundle

    file = export_bundle(find_bundle(bundle, trust=trust), output, form)
    return Answer({"file": str(file), "format": form}, str(file))
