"""Starting the server from the command line, in the label environment, until the user stops it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from medvit.errors import MedvitError
from medvit.label.own_environment import environment, interpreter, workspace
from medvit.runs.options import execution_settings

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_READY_AFTER = 300.0


def label_python() -> Path:
    """The interpreter of the environment that has MONAI Label.

    Raises
    ------
    MedvitError
        If there is none.
    """
    if importlib.util.find_spec("monailabel") is not None:
        return Path(sys.executable)
    if (python := interpreter(environment())) is not None:
        return python
    raise MedvitError("MONAI Label is not installed; run `medvit label --install` once")


def serve(
    studies: str,
    *,
    models: Sequence[str] = (),
    trust: bool = False,
    amp: str = "off",
    tf32: bool = False,
    backend: str = "torch",
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    folder: Path | None = None,
    query: Sequence[str] = (),
    origins: Sequence[str] = (),
    say: Callable[[str, str], object] = lambda address, text: print(text),
) -> int:
    """Run the server until it ends or is interrupted; its exit code.

    Parameters
    ----------
    studies
        A folder of images, or the address of a DICOMweb service.
    models
        Names of installed bundles, or folders of trusted ones. Where empty, all installed ones that are not
        quantised.
    trust
        Whether `models` may be folders.
    amp, tf32, backend
        Precision of the networks and what runs them, see `medvit.runs.options.execution_settings`.
    host, port
        What to bind.
    token
        Token that clients must send.
    folder
        For trained versions and fetched series; `workspace` by default.
    query
        Which series of an archive to list, as ``KEYWORD=VALUE``.
    origins
        Pages of other servers that may use this one, such as ``https://viewer.example.org``.
    say
        Called with the address and a text for people, once the server answers.

    Raises
    ------
    MedvitError
        If others could reach the server without a token, the studies are missing, there is no such
        precision, an origin is not one, the port is taken, or MONAI Label is not installed.
    """
    if host not in LOOPBACK and not token:
        raise MedvitError(f"{host} can be reached by others, and images are patients' data; give --token")
    remote = studies.startswith(("http://", "https://"))
    if not remote and not Path(studies).is_dir():
        raise MedvitError(f"{studies}: is neither a folder of images nor the address of a DICOMweb service")
    if wrong := [part for part in query if "=" not in part]:
        raise MedvitError(f"{wrong[0]!r} is not a query; write it as PatientID=17")
    execution_settings(amp, tf32, backend)
    for origin in origins:
        _check_origin(origin)
    _check_port(host, port)
    command = [
        str(label_python()),
        "-m",
        "medvit.label.server",
        studies if remote else str(Path(studies).resolve()),
    ]
    command += ["--host", host, "--port", str(port), "--workspace", str(folder or workspace())]
    command += ["--parent", str(os.getpid())]
    command += [part for model in models for part in ("--models", model)] + ["--trust"] * trust
    command += ["--amp", amp, "--backend", backend] + ["--tf32"] * tf32
    command += [f"--query={part}" for part in query] + [f"--allow-origin={origin}" for origin in origins]
    # In the environment, since arguments are seen by everybody on the machine.
    variables = {**os.environ, "MEDVIT_LABEL_TOKEN": token}
    process = subprocess.Popen(command, env=variables)
    # Being terminated must not leave the server behind.
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        if _wait_until_ready(process, host, port):
            say(_address(host, port), _welcome(_address(host, port), token))
        return _as_exit_code(process.wait())
    except KeyboardInterrupt:
        return _stopped(process)
    finally:
        if process.poll() is None:
            process.kill()
        signal.signal(signal.SIGTERM, before)


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or origin != f"{parts.scheme}://{parts.netloc}"
    ):
        raise MedvitError(
            f"{origin!r} is not an origin; give scheme, host and port as the browser does, "
            "such as https://viewer.example.org"
        )


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            what = f"{host}:{port} cannot be bound ({error.strerror}); give another --port"
            raise MedvitError(what) from None


def _wait_until_ready(process: subprocess.Popen, host: str, port: int) -> bool:
    """Whether the server answers before it ends."""
    deadline = time.monotonic() + _READY_AFTER
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{_address(host, port)}/auth/", timeout=2).close()
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


def _address(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _welcome(address: str, token: str) -> str:
    login = "\n  log in:    any name, the token as the password" if token else ""
    return (
        f"Serving. Stop with Ctrl-C.\n  3D Slicer: {address}  (module MONAI Label or MedViT, server)"
        f"\n  browser:   {address}/{login}"
    )


def _stopped(process: subprocess.Popen) -> int:
    """End the server after Ctrl-C, which the terminal has sent to it as well."""
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(15)
    return 0


def _as_exit_code(code: int) -> int:
    return 0 if code in (-signal.SIGTERM, -signal.SIGINT) else code
