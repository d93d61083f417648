"""`medvit data`: lists data sets and checks that a folder is complete."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.completion import complete_manifests
from medvit.cli.talk import Answer, answering
from medvit.datasets.check import check_dataset
from medvit.exits import ALL_WELL, SOME_FAILED
from medvit.studies.manifests.read import installed_manifests, read_manifest

app = typer.Typer(
    help="List data sets, and check that a folder is complete.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)


@app.command("check")
@answering
def check_command(
    manifest: Annotated[
        str,
        typer.Argument(
            help="Manifest (YAML, JSON), or the name of one of medvit's.", autocompletion=complete_manifests
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    headers: Annotated[
        bool, typer.Option("--headers", help="Check headers only, without reading voxels.")
    ] = False,
) -> Answer:
    """Compare a folder with its manifest, and list what is missing, misshapen or mislabelled."""
    found = check_dataset(read_manifest(manifest), folder, voxels=not headers, progress=_show)
    return Answer(found.as_dict(), str(found), ALL_WELL if found.ok else SOME_FAILED)


@app.command("list")
@answering
def list_command() -> Answer:
    """The manifests that came with medvit."""
    titles = {name: read_manifest(path).title for name, path in installed_manifests().items()}
    return Answer(titles, "\n".join(f"{name:20} {title}" for name, title in titles.items()))


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {total} cases read", err=True, nl=done == total)
