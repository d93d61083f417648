"""`medvit data`: what data sets hold, and whether a folder is complete."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.options import AsJson
from medvit.datasets.check import check_dataset
from medvit.studies.manifests.read import installed_manifests, read_manifest

app = typer.Typer(
    help="Data sets: what they hold, and whether a folder is complete.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)


@app.command("check")
def check_command(
    manifest: Annotated[str, typer.Argument(help="Manifest (YAML, JSON), or the name of one of medvit's.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    headers: Annotated[bool, typer.Option("--headers", help="Read no voxels.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a folder with its manifest: what is missing, wrong in shape, or mislabelled."""
    found = check_dataset(read_manifest(manifest), folder, voxels=not headers, progress=_show)
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))
    raise typer.Exit(0 if found.ok else 3)


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """The manifests that came with medvit."""
    titles = {name: read_manifest(path).title for name, path in installed_manifests().items()}
    if as_json:
        typer.echo(json.dumps(titles, indent=2))
        return
    for name, title in titles.items():
        typer.echo(f"{name:20} {title}")


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {total} cases read", err=True, nl=done == total)
