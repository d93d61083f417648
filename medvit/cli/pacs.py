"""`medvit pacs`: pull series from a PACS, push results to it, or listen for studies to process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.talk import Answer, answering, sharing
from medvit.studies import dimse
from medvit.studies.access import Access, PacsError
from medvit.studies.association import Node
from medvit.studies.pacs import dicom_files, pull, push

app = typer.Typer(
    help="Fetch series from a PACS and store results in it, over DICOMweb or DIMSE.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The facts by which a user tells series apart.
_SHOWN = ("StudyDate", "Modality", "SeriesDescription", "SeriesInstanceUID")

Address = Annotated[
    str,
    typer.Argument(
        help="DICOMweb service, such as https://pacs:8042/dicom-web, or DICOM node TITLE@host:port[+tls]."
    ),
]
NodeText = Annotated[
    str, typer.Argument(help="DICOM node, as TITLE@host:port, or TITLE@host:port+tls.", metavar="NODE")
]
Title = Annotated[str, typer.Option(help="Our own AE title.")]
Query = Annotated[list[str], typer.Argument(help="What to fetch: PatientID=17 Modality=CT ...")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the series, or for what a listener keeps.")
]
Files = Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", exists=True)]


def _certificates(
    ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="MEDVIT_PACS_CA_FILE",
            help="PEM file of the authority that signed the peer's certificate.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(envvar="MEDVIT_PACS_CERTIFICATE", help="PEM file of our own certificate."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(envvar="MEDVIT_PACS_KEY", help="PEM file of its private key, if in a separate file."),
    ] = None,
) -> Access:
    return Access(ca_file=ca_file, certificate=certificate, key=key)


@sharing(_certificates)
def _access(
    user: Annotated[str, typer.Option(envvar="MEDVIT_PACS_USER", help="User of a DICOMweb service.")] = "",
    password: Annotated[
        str, typer.Option(envvar="MEDVIT_PACS_PASSWORD", help="Password; safer when set in the environment.")
    ] = "",
    token: Annotated[
        str, typer.Option(envvar="MEDVIT_PACS_TOKEN", help="Bearer token, instead of a user.")
    ] = "",
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Allow credentials without TLS.")] = False,
    *,
    access: Access,
) -> Access:
    return replace(access, user=user, password=password, token=token, plain_http=plain_http)


@app.command("pull")
@answering
@sharing(_access)
def pull_command(
    address: Address, query: Query, output: Output, title: Title = "MEDVIT", *, access: Access
) -> Answer:
    """Fetch every series that matches, each into its own folder."""
    if _is_url(address):
        folders = pull(address, _parse(query), output, access)
    else:
        folders = dimse.get(Node.parse(address, access), _parse(query), output, title=title)
    names = [str(series) for series in folders]
    return Answer({"folders": names}, "\n".join(names))


@app.command("push")
@answering
@sharing(_access)
def push_command(address: Address, files: Files, title: Title = "MEDVIT", *, access: Access) -> Answer:
    """Store DICOM files, and all DICOM files below the given folders."""
    found = dicom_files(files)
    if _is_url(address):
        count = push(address, found, access)
    else:
        count = dimse.store(Node.parse(address, access), found, title=title)
    return Answer({"stored": count}, f"{count} files stored")


@app.command()
@answering
@sharing(_certificates)
def echo(node: NodeText, title: Title = "MEDVIT", *, access: Access) -> Answer:
    """Check that a DICOM node is reachable and accepts our calls (C-ECHO)."""
    dimse.echo(Node.parse(node, access), title=title)
    return Answer({"node": node, "answers": True}, f"{node} answers")


@app.command()
@answering
@sharing(_certificates)
def find(node: NodeText, query: Query, title: Title = "MEDVIT", *, access: Access) -> Answer:
    """List the series that match, by modality, description and UID (C-FIND)."""
    found = dimse.find(Node.parse(node, access), _parse(query), title=title)
    rows = [{keyword: str(series.get(keyword, "")) for keyword in _SHOWN} for series in found]
    return Answer(rows, "\n".join("\t".join(row.values()) for row in rows))


@app.command()
@answering
@sharing(_certificates)
def move(
    node: NodeText,
    query: Query,
    to: Annotated[str, typer.Option(help="AE title of the receiver, as the node knows it.")],
    title: Title = "MEDVIT",
    *,
    access: Access,
) -> Answer:
    """Have a node send the series that match to another node (C-MOVE)."""
    count = dimse.move(Node.parse(node, access), _parse(query), to, title=title)
    return Answer({"sent": count, "to": to}, f"{count} instances sent to {to}")


@app.command()
@answering
@sharing(_certificates)
def listen(
    output: Output,
    bundle: Annotated[str, typer.Argument(help="Installed bundle to run, unless --rules is given.")] = "",
    rules: Annotated[
        Path | None,
        typer.Option(exists=True, help="JSON file of bundles and the series that each one processes."),
    ] = None,
    modality: Annotated[str, typer.Option(help="Modality of the series to take, such as MR.")] = "",
    description: Annotated[
        str, typer.Option(help="Regular expression that the series description must contain.")
    ] = "",
    body_part: Annotated[str, typer.Option(help="Regular expression that the body part must contain.")] = "",
    host: Annotated[
        str, typer.Option(help="Address to bind; any other than loopback needs --sender.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0 for any free one.")] = 11112,
    title: Title = "MEDVIT",
    sender: Annotated[
        list[str] | None, typer.Option(help="AE title that may send to this node; may be repeated.")
    ] = None,
    send_to: Annotated[
        str, typer.Option(help="Node that gets the results, as TITLE@host:port[+tls].", metavar="NODE")
    ] = "",
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without a new image after which a study is complete.")
    ] = 60.0,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            help="Accept only TLS, with --certificate; with --ca-file, check the callers' certificates.",
        ),
    ] = False,
    keep: Annotated[float, typer.Option(min=0, help="Days to keep the images of finished studies.")] = 7.0,
    *,
    say: Callable[[Answer], None],
    access: Access,
) -> None:
    """Receive studies (C-STORE), run a bundle on each complete one, and send the results back."""
    if bool(bundle) == bool(rules):
        raise PacsError("give a bundle, or --rules with several")
    if host not in ("127.0.0.1", "localhost", "::1") and not sender:
        raise PacsError(f"{host} can be reached by others, and DICOM has no passwords; name each --sender")
    receiver = Node.parse(send_to, access) if send_to else None
    context = access.server_context() if tls else None
    from medvit.bundles import find_bundle
    from medvit.runs import BundleProcess, Route, read_routes
    from medvit.runs import listen as run_listener
    from medvit.studies import SeriesRules

    if rules:
        routes = read_routes(rules)
    else:
        wanted = SeriesRules(
            modality=(modality,) if modality else (), description=description, body_part=body_part
        )
        routes = [Route(find_bundle(bundle), wanted)]
    run_listener(
        output, BundleProcess(output, routes), title=title, host=host, port=port, senders=sender or (),
        tls=context, receiver=receiver, settle=settle, keep=keep, say=typer.echo,
        ready=lambda bound: say(
            Answer({"title": title, "host": host, "port": bound}, f"listening as {title} on {host}:{bound}")
        ),
    )  # fmt: skip


def _is_url(address: str) -> bool:
    return "://" in address


def _parse(query: list[str]) -> dict[str, str]:
    wrong = [item for item in query if "=" not in item]
    if wrong:
        raise PacsError(f"{wrong[0]!r} is not a query; write it as PatientID=17")
    return dict(item.split("=", 1) for item in query)
