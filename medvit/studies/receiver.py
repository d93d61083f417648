"""A C-STORE node: every object is completely on disk before the sender gets a confirmation."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from socketserver import BaseServer
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medvit.errors import DISK_FULL, MedvitError
from medvit.studies.access import PacsError
from medvit.studies.association import application
from medvit.studies.dicom.headers import quiet
from medvit.studies.files import atomic_path
from medvit.studies.pacs import digest_of

if TYPE_CHECKING:
    from pynetdicom.events import Event
    from pynetdicom.transport import RequestHandler

# Seconds that a caller has for a TLS handshake.
_HANDSHAKE = 10.0
# Answers to a C-STORE, PS3.4 B.2.3 and PS3.7 C.
STORED, NO_ROOM, NOT_UNDERSTOOD, OTHER_CONTENT = 0x0000, 0xA700, 0xC000, 0x0111
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@contextmanager
def receiving(
    folder: Path,
    *,
    title: str,
    host: str,
    port: int,
    senders: Collection[str] = (),
    tls: SSLContext | None = None,
) -> Iterator[int]:
    """Accept instances (C-STORE) and answer C-ECHO for the duration of the block; yield the port.

    Instances go to ``<study>/<series>/<instance>.dcm`` below the folder, named by digests, as they were
    encoded. Received instances stay: sending the same again succeeds, and other content under the same UID
    is refused.

    Parameters
    ----------
    folder
        Folder for the instances, created if necessary.
    title
        Our AE title, which callers must use.
    host, port
        Address to bind; port 0 takes a free one.
    senders
        AE titles that may call; if empty, all may.
    tls
        Server context, such as `Access.server_context`, to accept callers only over TLS.

    Raises
    ------
    PacsError
        If the address cannot be bound.
    """
    entity = application(title)
    from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
    from pynetdicom.transport import ThreadedAssociationServer

    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.rglob(".partial-*"):  # left by a process that was killed before it answered
        leftover.unlink()
    # A deflated data set may unpack to more memory than there is before anything could be checked.
    syntaxes = [uid for uid in ALL_TRANSFER_SYNTAXES if uid != DeflatedExplicitVRLittleEndian]
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), syntaxes)
    entity.add_supported_context(Verification)
    entity.require_called_aet = True
    entity.require_calling_aet = list(senders)
    handlers: Any = [(evt.EVT_C_STORE, lambda event: _take(event, folder))]
    try:
        server = entity.make_server(
            (host, port),
            evt_handlers=handlers,
            server_class=ThreadedAssociationServer,
            request_handler=_over(tls) if tls else None,
        )
    except OSError as error:
        raise PacsError(f"{host}:{port} cannot be bound ({error.strerror}); give another port") from None
    server.daemon_threads = True  # a caller in its handshake does not delay the end
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        BaseServer.shutdown(server)  # pynetdicom's own method expects a server made by `start_server`
        server.server_close()


def _over(tls: SSLContext) -> type[RequestHandler]:
    """A handler that performs the TLS handshake in the thread of its caller.

    pynetdicom performs it before it accepts the next caller, so a silent caller would block all others.
    """
    from pynetdicom.transport import RequestHandler

    class Handler(RequestHandler):
        def handle(self) -> None:
            try:
                self.request.settimeout(_HANDSHAKE)
                self.request = tls.wrap_socket(self.request, server_side=True)
                self.request.settimeout(None)
            except OSError:  # silent, not TLS, or without an accepted certificate: the socket is closed
                return
            super().handle()

    return Handler


def _take(event: Event, folder: Path) -> int:
    try:
        data = event.encoded_dataset()
        with quiet():
            header = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=[*_UIDS])
        names = [digest_of(str(header[keyword].value)) for keyword in _UIDS if header.get(keyword)]
    except Exception:  # arbitrary input must not end the node
        return NOT_UNDERSTOOD
    if len(names) != len(_UIDS):
        return NOT_UNDERSTOOD
    path = folder.joinpath(*names).with_suffix(".dcm")
    try:
        if path.is_file():
            return STORED if path.read_bytes() == data else OTHER_CONTENT
        with atomic_path(path) as partial:
            partial.write_bytes(data)
    except (MedvitError, OSError) as error:
        full = isinstance(error, MedvitError) or error.errno in DISK_FULL
        return NO_ROOM if full else NOT_UNDERSTOOD
    return STORED
