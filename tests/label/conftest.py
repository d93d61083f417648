"""A real server process without any network but loopback, and the client that 3D Slicer's plugin uses."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# Loaded by every interpreter that the server starts: nothing outside of this machine exists.
NO_NETWORK = """
import os, socket

def here(host):
    return host in (None, "", "localhost", "::1", "0.0.0.0") or str(host).startswith("127.")

def refuse(host):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(f"{host}\\n")
    raise OSError(f"no network: {host}")

resolve, connect = socket.getaddrinfo, socket.socket.connect
socket.getaddrinfo = lambda host, *a, **k: resolve(host, *a, **k) if here(host) else refuse(host)

def guarded(self, address):
    local = not isinstance(address, tuple) or here(address[0])
    return connect(self, address) if local else refuse(address[0])

socket.socket.connect = guarded
"""


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    url: str
    studies: Path | str
    folder: Path
    seconds: float

    @property
    def client(self) -> Any:
        """A new client; what it downloads goes to a folder that the test can throw away."""
        from monailabel.client import MONAILabelClient

        downloads = self.folder / "downloads"
        downloads.mkdir(exist_ok=True)
        return MONAILabelClient(self.url, tmpdir=str(downloads))

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return (self.folder / "server.log").read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a real server need the label environment's interpreter."""
    if importlib.util.find_spec("monailabel") is None:
        for item in items:
            if item.get_closest_marker("label"):
                item.add_marker(pytest.mark.skip(reason="needs MONAI Label: run `make test-label`"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(folder: Path) -> dict[str, str]:
    """No network, no home with caches, and a folder for temporary files that can be looked into."""
    for name in ("site", "home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "XDG_CACHE_HOME"}
    return kept | {
        "PYTHONPATH": str(folder / "site"),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "NETWORK_LOG": str(folder / "network.log"),
        "OMP_NUM_THREADS": "1",
    }


def start(folder: Path, command: list[str], port: int) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            env=environment(folder), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip


def wait_until_ready(process: subprocess.Popen, url: str, folder: Path, limit: float = 120) -> float:
    started = time.monotonic()
    while time.monotonic() - started < limit:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/info/", timeout=5).close()
            return time.monotonic() - started
        except urllib.error.HTTPError as answer:
            assert answer.code == 401, answer
            return time.monotonic() - started
        except OSError:
            time.sleep(0.5)
    process.kill()
    raise AssertionError(f"no answer: {(folder / 'server.log').read_text()[-3000:]}")


@contextmanager
def running(folder: Path, studies: Path | str, *options: str) -> Iterator[Server]:
    """A server started by the command line, and stopped."""
    port = free_port()
    command = [
        "-m",
        "medvit.cli.app",
        "label",
        str(studies),
        "--workspace",
        str(folder / "workspace"),
        *options,
    ]
    process = start(folder, command, port)
    url = f"http://127.0.0.1:{port}"
    try:
        yield Server(process, url, studies, folder, wait_until_ready(process, url, folder))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
