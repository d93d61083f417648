"""DIMSE over TLS: certificates are checked on both sides, and a silent caller stops nobody."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from medvit.cli.pacs import app
from medvit.studies import receiver
from medvit.studies.access import Access, PacsError
from medvit.studies.association import Node
from medvit.studies.dimse import echo, store
from medvit.studies.receiver import receiving
from tests.studies.dicom_out.synthetic import write_series


def pem(folder: Path, name: str, *parts: trustme.Blob) -> Path:
    path = folder / f"{name}.pem"
    path.write_bytes(b"".join(part.bytes() for part in parts))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An authority, a certificate that it signed for this machine, and a certificate of another authority."""
    authority, other = trustme.CA(), trustme.CA()
    ours, stranger = authority.issue_cert("127.0.0.1"), other.issue_cert("127.0.0.1")
    return {
        "ca": pem(tmp_path, "ca", authority.cert_pem),
        "other_ca": pem(tmp_path, "other_ca", other.cert_pem),
        "ours": pem(tmp_path, "ours", ours.private_key_and_cert_chain_pem),
        "stranger": pem(tmp_path, "stranger", stranger.private_key_and_cert_chain_pem),
    }


def client(monkeypatch: pytest.MonkeyPatch, ca: Path, certificate: Path | None = None) -> None:
    monkeypatch.setenv("MEDVIT_PACS_CA_FILE", str(ca))
    monkeypatch.setenv("MEDVIT_PACS_CERTIFICATE", str(certificate or ""))


def test_certificates_are_checked_on_both_sides(tmp_path, files, monkeypatch):
    paths, _ = write_series(tmp_path / "ct", (20, 16, 2))
    tls = Access(certificate=files["ours"], ca_file=files["ca"]).server_context()
    inbox = tmp_path / "inbox"
    with receiving(inbox, title="MEDVIT", host="127.0.0.1", port=0, tls=tls) as port:
        node = Node("MEDVIT", "127.0.0.1", port, timeout=10.0, tls=True)
        client(monkeypatch, files["ca"], files["ours"])
        assert store(node, paths) == 2
        for ca, certificate in (("other_ca", "ours"), ("ca", "stranger"), ("ca", None)):
            client(monkeypatch, files[ca], files[certificate] if certificate else None)
            with pytest.raises(PacsError, match=f"{port}.tls cannot be reached; check .* certificates"):
                echo(node)
        with pytest.raises(PacsError, match="cannot be reached"):
            echo(replace(node, tls=False, timeout=3.0))
    assert len(list(inbox.rglob("*.dcm"))) == 2


def test_without_an_authority_any_caller_is_taken(tmp_path, files, monkeypatch):
    tls = Access(certificate=files["ours"]).server_context()
    with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0, tls=tls) as port:
        client(monkeypatch, files["ca"])
        echo(Node("MEDVIT", "127.0.0.1", port, timeout=10.0, tls=True))


@pytest.mark.parametrize("opening", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_caller_in_its_handshake_holds_up_neither_others_nor_the_end(opening, tmp_path, files, monkeypatch):
    monkeypatch.setattr(receiver, "_HANDSHAKE", 300.0)
    tls = Access(certificate=files["ours"]).server_context()
    client(monkeypatch, files["ca"])
    with socket.socket() as silent:
        started = time.monotonic()
        with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0, tls=tls) as port:
            silent.connect(("127.0.0.1", port))
            silent.sendall(opening)
            echo(Node("MEDVIT", "127.0.0.1", port, timeout=60.0, tls=True))
        assert time.monotonic() - started < 150


@pytest.mark.parametrize("opening", [b"", b"A-ASSOCIATE", b"\x16\x03\x01\x02\x00\x01"])
def test_a_caller_that_does_not_complete_the_handshake_is_cut_off(opening, tmp_path, files, monkeypatch):
    monkeypatch.setattr(receiver, "_HANDSHAKE", 0.2)
    tls = Access(certificate=files["ours"]).server_context()
    with (
        receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0, tls=tls) as port,
        socket.create_connection(("127.0.0.1", port), timeout=60.0) as silent,
    ):
        silent.sendall(opening)
        with suppress(ConnectionResetError):
            while silent.recv(100):
                pass  # an alert, before the end


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "message"),
    [
        ("text", "", "", r"text\.pem: is not a PEM file with the certificate of an authority"),
        ("folder", "", "", r"folder\.pem: this .* does not exist"),
        ("", "none", "", r"none\.pem: this .* does not exist"),
        ("", "text", "", r"text\.pem: holds no certificate and key"),
        ("", "ca", "", r"ca\.pem: holds no certificate and key.*give that too"),
        ("", "ca", "text", r"ca\.pem: holds no certificate in PEM, or no key for it in .*text\.pem"),
        ("", "ours", "stranger", r"the key in .*stranger\.pem is not that of the certificate in .*ours\.pem"),
        ("", "locked", "", r"locked\.pem: the key is encrypted"),
    ],
)
@pytest.mark.parametrize("verb", ["listen", "move", "pull"])
def test_unusable_certificates_are_one_sentence(verb, ca, certificate, key, message, tmp_path, files):
    (tmp_path / "text.pem").write_text("nothing")
    (tmp_path / "folder.pem").mkdir()
    loaded = serialization.load_pem_private_key(files["ours"].read_bytes(), None)
    locked = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "locked.pem").write_bytes(files["ca"].read_bytes() + locked)
    command = {
        "listen": ["listen", "segformer3d_brain", "--tls", f"--output={tmp_path / 'out'}"],
        "move": ["move", "PACS@127.0.0.1:9+tls", "PatientID=1", "--to=US"],
        "pull": ["pull", "https://127.0.0.1:9/dicom-web", "PatientID=1", f"--output={tmp_path / 'out'}"],
    }[verb]
    given = {"ca-file": ca, "certificate": certificate, "key": key}
    if verb == "listen" and not certificate:
        given["certificate"] = "ours"
    options = [f"--{name}={tmp_path / value}.pem" for name, value in given.items() if value]
    result = CliRunner().invoke(app, [*command, *options])
    assert isinstance(result.exception, PacsError)
    assert re.search(message, str(result.exception)) and "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_server_needs_a_certificate():
    with pytest.raises(PacsError, match="set MEDVIT_PACS_CERTIFICATE"):
        Access().server_context()
