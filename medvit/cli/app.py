"""The `medvit` command: every verb calls one function of the library, which is imported when it is called."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from typing import Annotated, Any

import typer

from medvit import __version__
from medvit.cli import catalogue, comparison, engines, files, inference, learning
from medvit.errors import DISK_FULL, MedvitError, root_cause
from medvit.inference.memory import share_one_arena

app = typer.Typer(
    name="medvit",
    help="Transformers that segment and restore medical images, as MONAI bundles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A command that passes its arguments to a separate app, which is imported when it is called.
_SUB_APP: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    "add_help_option": False,
}


# A mistyped option must not give exit code 2, which means that no study was found.
next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError").exit_code = 1  # type: ignore[attr-defined]


def main() -> None:
    """Entry point: an error that the user can put right is one sentence and exit code 1."""
    # Studies are inferred in threads; a thread may reuse the memory of an earlier one.
    share_one_arena()
    # At its end Python searches all objects for cycles, several times over, though all memory goes anyway.
    atexit.register(gc.freeze)
    try:
        app()
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            cause = MedvitError(
                f"{cause.filename or 'a file'} cannot be written: {cause.strerror}; free space"
            )
        if not isinstance(cause, MedvitError):
            raise
        typer.echo(f"medvit: {cause}", err=True)
        if "--json" in sys.argv:
            typer.echo(json.dumps({"error": str(cause)}))
        sys.exit(1)


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


app.command()(inference.run)
app.command()(inference.cohort)
app.command()(inference.status)
app.command()(learning.label)
app.command()(learning.train)
app.command()(learning.pretrain)
app.command()(comparison.evaluate)
app.add_typer(comparison.bench, name="bench")
app.command(name="list")(catalogue.list_bundles)
app.command()(catalogue.info)
app.command()(files.check)


@app.command(**_SUB_APP)
def data(context: typer.Context) -> None:
    """Check the folder of a data set against its manifest (`medvit data --help`)."""
    from medvit.cli.data import app as data_app

    data_app(context.args, prog_name="medvit data")


app.command()(catalogue.convert)
app.command()(catalogue.export)
app.command()(engines.verify)
app.command()(engines.quantize)


@app.command(**_SUB_APP)
def pacs(context: typer.Context) -> None:
    """Fetch series from a PACS and store results in it, over DICOMweb or DIMSE (`medvit pacs --help`)."""
    from medvit.cli.pacs import app as pacs_app

    pacs_app(context.args, prog_name="medvit pacs")


app.command()(files.deidentify)


if __name__ == "__main__":
    main()
