"""DIMSE over TLS: certificates are checked on both sides, and a silent caller stops nobody."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from medvit.studies import pacs
from medvit.studies.dimse import Node, echo, store
from medvit.studies.pacs import Access, PacsError
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


def test_a_silent_caller_stops_nobody(tmp_path, files, monkeypatch):
    monkeypatch.setattr(pacs, "_HANDSHAKE", 0.2)
    tls = Access(certificate=files["ours"]).server_context()
    with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0, tls=tls) as port:
        client(monkeypatch, files["ca"])
        with socket.create_connection(("127.0.0.1", port)):
            echo(Node("MEDVIT", "127.0.0.1", port, timeout=10.0, tls=True))


def test_files_that_are_no_certificates_are_named(tmp_path):
    (tmp_path / "text.pem").write_text("nothing")
    with pytest.raises(PacsError, match="certificate or its key cannot be used"):
        Access(certificate=tmp_path / "text.pem").server_context()
    with pytest.raises(PacsError, match="set MEDVIT_PACS_CERTIFICATE"):
        Access().server_context()
