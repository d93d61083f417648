"""Credentials go only where they are safe, and never into text."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.studies.access import Access, PacsError


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8042/dicom-web", "http://localhost/dicom-web", "http://[::1]:80/x"]
)
def test_secrets_may_go_to_this_machine_in_the_clear(url: str) -> None:
    Access(user="u", password="p").check(url)
    Access(token="t").check(url)


def test_secrets_go_elsewhere_only_when_that_is_allowed() -> None:
    for access in (Access(user="u", password="p"), Access(token="t")):
        with pytest.raises(PacsError, match="pacs would get the credentials without encryption"):
            access.check("http://pacs/dicom-web")
    Access(token="t", plain_http=True).check("http://pacs/dicom-web")
    Access(user="u").check("http://pacs/dicom-web")
    Access(token="t").check("https://pacs/dicom-web")


@pytest.mark.parametrize(
    ("access", "url", "words"),
    [
        (Access(), "pacs:8042/dicom-web", "is not the address of a DICOMweb service"),
        (Access(), "ftp://pacs/x", "is not the address of a DICOMweb service"),
        (Access(), "http:///x", "is not the address of a DICOMweb service"),
        (Access(), "https://u:p@pacs/x", "holds a user or password"),
        (Access(user="u", token="t"), "https://pacs/x", "both a token and a user"),
        (Access(password="p", token="t"), "https://pacs/x", "both a token and a user"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(access: Access, url: str, words: str) -> None:
    with pytest.raises(PacsError, match=words):
        access.check(url)


def test_no_secret_shows_in_text() -> None:
    text = repr(Access(user="someone", password="pass-1", token="token-1"))
    assert "someone" in text and "pass-1" not in text and "token-1" not in text


def test_the_environment_states_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "PASSWORD", "TOKEN", "CA_FILE", "CERTIFICATE", "KEY"):
        monkeypatch.delenv(f"MEDVIT_PACS_{name}", raising=False)
    assert Access.from_environment() == Access()
    monkeypatch.setenv("MEDVIT_PACS_USER", "u")
    monkeypatch.setenv("MEDVIT_PACS_KEY", "k.pem")
    assert Access.from_environment() == Access(user="u", key=Path("k.pem"))


def test_certificates_are_named_when_they_cannot_be_used(tmp_path: Path) -> None:
    text = tmp_path / "notes.pem"
    text.write_text("not a certificate")
    missing = tmp_path / "missing.pem"
    with pytest.raises(PacsError, match="give --certificate or set MEDVIT_PACS_CERTIFICATE"):
        Access().server_context()
    with pytest.raises(PacsError, match=r"missing\.pem: this certificate or key file does not exist"):
        Access(ca_file=missing).check("https://pacs/x")
    with pytest.raises(
        PacsError, match=r"notes\.pem: is not a PEM file with the certificate of an authority"
    ):
        Access(ca_file=text).client_context()
    with pytest.raises(PacsError, match="no certificate and key in PEM"):
        Access(certificate=text).server_context()
    key = tmp_path / "key.pem"
    key.write_text("not a key")
    with pytest.raises(PacsError, match=r"no certificate in PEM, or no key for it in .*key\.pem"):
        Access(certificate=text, key=key).server_context()
