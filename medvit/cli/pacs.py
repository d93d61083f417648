"""`medvit pacs`: pull series from a PACS and push results to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.options import sharing
from medvit.studies.pacs import Access, PacsError, dicom_files, pull, push

app = typer.Typer(
    help="Fetch from a PACS and store in it, over DICOMweb.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[str, typer.Argument(help="DICOMweb service, such as https://pacs:8042/dicom-web")]
Query = Annotated[list[str], typer.Argument(help="What to fetch: PatientID=17 Modality=CT ...")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder that gets one folder a series.")]
Files = Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", exists=True)]


def _access(
    user: Annotated[str, typer.Option(envvar="MEDVIT_PACS_USER")] = "",
    password: Annotated[
        str, typer.Option(envvar="MEDVIT_PACS_PASSWORD", help="Better in the environment.")
    ] = "",
    token: Annotated[
        str, typer.Option(envvar="MEDVIT_PACS_TOKEN", help="Bearer token, instead of a user.")
    ] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option(envvar="MEDVIT_PACS_CA_FILE", help="PEM file that signed the server's certificate."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(envvar="MEDVIT_PACS_CERTIFICATE", help="PEM file that identifies this client."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            envvar="MEDVIT_PACS_KEY", help="Key of the client certificate, if it is not in that file."
        ),
    ] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Allow credentials without TLS.")] = False,
) -> Access:
    return Access(user, password, token, ca_file, certificate, key, plain_http)


@app.command("pull")
@sharing(_access)
def pull_command(url: Url, query: Query, output: Output, access: Access) -> None:
    """Fetch every series that matches, each into a folder of its own."""
    for series in pull(url, _parse(query), output, access):
        typer.echo(series)


@app.command("push")
@sharing(_access)
def push_command(url: Url, files: Files, access: Access) -> None:
    """Store DICOM files; of a folder, all DICOM files below it."""
    typer.echo(f"{push(url, dicom_files(files), access)} files stored")


def _parse(query: list[str]) -> dict[str, str]:
    wrong = [item for item in query if "=" not in item]
    if wrong:
        raise PacsError(f"{wrong[0]!r} is not a query; write it as PatientID=17")
    return dict(item.split("=", 1) for item in query)
