"""Associations with DICOM nodes (PS3.8): a node's address, our application, and the answer's status."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvit.errors import MissingExtraError
from medvit.studies.access import Access, PacsError

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association
    from pynetdicom.events import Event

SUCCESS = 0x0000

OUR_TITLE = "MEDVIT"
Contexts = Sequence[tuple[Any, Any]]


@dataclass(frozen=True)
class Node:
    """A DICOM application at the other end.

    Parameters
    ----------
    title
        Its AE title, up to 16 characters.
    host, port
        Address at which it listens.
    timeout
        Seconds to wait for a connection or an answer.
    tls
        Whether to talk over TLS (PS3.15 B).
    access
        Certificates for TLS; by default those of `Access.from_environment`.
    """

    title: str
    host: str
    port: int
    timeout: float = 60.0
    tls: bool = False
    access: Access | None = None

    @classmethod
    def parse(cls, text: str, access: Access | None = None) -> Node:
        """A node written as ``TITLE@host:port``, or ``TITLE@host:port+tls`` for TLS with `access`.

        Raises
        ------
        PacsError
            If the text is not of this form.
        """
        match = re.fullmatch(r"([^@\\]{1,16})@([^@:]+|\[[^\]]+\]):(\d{1,5})(\+tls)?", text)
        if not match or not 0 < int(match[3]) < 65536:
            raise PacsError(
                f"{text!r} is not a DICOM node; write it as TITLE@host:port, or TITLE@host:port+tls"
            )
        return cls(match[1], match[2].strip("[]"), int(match[3]), tls=bool(match[4]), access=access)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}{'+tls' if self.tls else ''}"


def application(title: str) -> ApplicationEntity:
    """Our own application, under its AE title.

    Raises
    ------
    MissingExtraError
        If pynetdicom is not installed.
    """
    try:
        from pynetdicom import AE
    except ImportError as error:
        raise MissingExtraError("a PACS", "pacs") from error
    return AE(title)


@contextmanager
def associated(
    node: Node,
    title: str,
    contexts: Contexts,
    *,
    roles: Sequence[Any] = (),
    stored: Callable[[Event], int] | None = None,
) -> Iterator[Association]:
    """An association with a node, released at the end of the block.

    Parameters
    ----------
    node, title
        The node, and our own AE title.
    contexts
        Abstract syntaxes with the transfer syntaxes to offer; `None` for the two uncompressed ones.
    roles
        Roles to negotiate, such as that of a storage provider.
    stored
        Handler of instances that the node sends; returns a status.

    Raises
    ------
    PacsError
        If the node cannot be reached, or rejects our title.
    """
    entity = application(title)
    from pynetdicom import evt

    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = node.timeout
    entity.connection_timeout = min(node.timeout, 10.0)
    for kind, syntaxes in contexts:
        entity.add_requested_context(kind, syntaxes or [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    handlers: Any = [(evt.EVT_C_STORE, stored)] if stored else []
    tls = ((node.access or Access.from_environment()).client_context(), node.host) if node.tls else None
    try:
        association = entity.associate(
            node.host,
            node.port,
            ae_title=node.title,
            ext_neg=list(roles),
            evt_handlers=handlers,
            tls_args=tls,
        )
    except socket.gaierror as error:
        raise PacsError(f"{node}: there is no host of that name ({error.strerror}); check it") from error
    if not association.is_established:
        if association.is_rejected:
            raise PacsError(f"{node} rejects {title}; have the title entered there, and check {node.title}")
        also = ", certificates" if node.tls else ""
        raise PacsError(f"{node} cannot be reached; check host, port{also} and title, and that the PACS runs")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def check_status(status: Dataset, node: Node, what: str) -> None:
    """Refuse an answer that is missing or not a success; `what` was asked for."""
    code = status.get("Status")
    if code is None:
        raise PacsError(f"{node} did not answer {what} in time; try again")
    if code != SUCCESS:
        raise PacsError(f"{node} refused {what} (status {code:#06x})")
