"""Credentials and certificates for a PACS."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from medvit.errors import MedvitError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class PacsError(MedvitError):
    """A PACS that cannot be reached, denies access, or did not do what was requested."""


@dataclass(frozen=True)
class Access:
    """Credentials for a PACS. Secrets are kept out of `repr`, so that no log shows them.

    Parameters
    ----------
    user, password
        HTTP basic authentication.
    token
        Bearer token (RFC 6750), instead of user and password.
    ca_file
        PEM file of the authority that signed the server's certificate; default: the system's authorities.
    certificate, key
        PEM files that identify this client to the server (mutual TLS); `key` may be in `certificate`.
    plain_http
        Allow credentials to a host other than this one without TLS.
    timeout
        Seconds to wait for an answer.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    plain_http: bool = False
    timeout: float = 120.0

    @classmethod
    def from_environment(cls) -> Access:
        """Settings from the variables ``MEDVIT_PACS_USER``, ``_PASSWORD``, ``_TOKEN``, ``_CA_FILE``,
        ``_CERTIFICATE`` and ``_KEY``.
        """

        def given(name: str) -> str:
            return os.environ.get(f"MEDVIT_PACS_{name}", "")

        files = {n.lower(): Path(given(n)) for n in ("CA_FILE", "CERTIFICATE", "KEY") if given(n)}
        return cls(given("USER"), given("PASSWORD"), given("TOKEN"), **files)  # type: ignore[arg-type]

    def client_context(self) -> ssl.SSLContext:
        """TLS as a client: it checks the server's certificate, and shows its own if it has one.

        Raises
        ------
        PacsError
            If a file is missing, or is not a PEM file of its kind.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_file is None:
            context.load_default_certs()
        self._load(context)
        return context

    def server_context(self) -> ssl.SSLContext:
        """TLS as a server with `certificate`; given `ca_file`, callers must show one that it signed.

        Raises
        ------
        PacsError
            If there is no certificate, a file is missing, or one is not a PEM file of its kind.
        """
        if self.certificate is None:
            raise PacsError("TLS needs a certificate: give --certificate or set MEDVIT_PACS_CERTIFICATE")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.ca_file:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        for file in (self.ca_file, self.certificate, self.key):
            if file is not None and not file.is_file():
                raise PacsError(f"{file}: this certificate or key file does not exist; check the path")
        if self.ca_file:
            try:
                context.load_verify_locations(self.ca_file)
            except (OSError, ValueError):
                what = "is not a PEM file with the certificate of an authority"
                raise PacsError(f"{self.ca_file}: {what}; check the path") from None
        if self.certificate:
            self._load_chain(context, self.certificate, self.key or self.certificate)

    def _load_chain(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        def password() -> str:  # otherwise OpenSSL would ask at the terminal
            raise PacsError(f"{key}: the key is encrypted; give a file with the unencrypted key")

        try:
            context.load_cert_chain(certificate, key, password)
        except (OSError, ValueError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                what = f"the key in {key} is not that of the certificate in {certificate}"
                raise PacsError(f"{what}; check both paths") from None
            what = (
                f"no certificate in PEM, or no key for it in {key}"
                if key != certificate
                else ("no certificate and key in PEM; if the key is in a file of its own, give that too")
            )
            raise PacsError(f"{certificate}: holds {what}") from None

    def check(self, url: str) -> None:
        """Raise `PacsError` if the settings contradict each other, are unusable or expose a secret."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PacsError(
                f"{url!r} is not the address of a DICOMweb service; give http(s)://host:port/path"
            )
        if parts.username or parts.password:
            raise PacsError(
                "the address holds a user or password; pass them separately, addresses get logged"
            )
        if self.token and (self.user or self.password):
            raise PacsError("both a token and a user were given; pass one of them")
        secret = self.token or self.password
        if secret and parts.scheme == "http" and parts.hostname not in _LOOPBACK and not self.plain_http:
            what = "would get the credentials without encryption; use https, or allow plain http"
            raise PacsError(f"{parts.hostname} {what}")
        if parts.scheme == "https":
            self.client_context()
