"""A small archive on loopback that speaks DIMSE, and keeps what it is sent in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pydicom
from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt, sop_class

from medvit.studies.association import Node


@dataclass
class Archive:
    """What it holds, who has called, and how it misbehaves.

    Parameters
    ----------
    held
        Bytes of each instance as they came, by SOPInstanceUID.
    refuse
        Status of each C-STORE.
    lose
        How many instances of a C-GET or C-MOVE fail.
    known
        Addresses of receivers of a C-MOVE by AE title.
    """

    held: dict[str, bytes] = field(default_factory=dict)
    callers: list[str] = field(default_factory=list)
    refuse: int = 0
    lose: int = 0
    known: dict[str, tuple[str, int]] = field(default_factory=dict)
    node: Node = field(default_factory=lambda: Node("ARCHIVE", "127.0.0.1", 0))

    def datasets(self) -> list[Dataset]:
        return [pydicom.dcmread(BytesIO(data)) for _, data in sorted(self.held.items())]

    def matching(self, wanted: Dataset) -> list[Dataset]:
        keys = [e.keyword for e in wanted if e.value and e.keyword != "QueryRetrieveLevel"]
        return [ds for ds in self.datasets() if all(str(ds.get(k, "")) == str(wanted[k].value) for k in keys)]

    def take(self, event: Any) -> int:
        self.callers.append(event.assoc.requestor.ae_title.strip())
        if not self.refuse:
            self.held[str(event.request.AffectedSOPInstanceUID)] = event.encoded_dataset()
        return self.refuse

    def search(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        level = f"{event.identifier.QueryRetrieveLevel.title()}InstanceUID"
        seen = set()
        for ds in self.matching(event.identifier):
            if ds[level].value not in seen:
                seen.add(ds[level].value)
                found = Dataset()
                for element in event.identifier:
                    found.add_new(element.tag, element.VR, ds.get(element.keyword, ""))
                found.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
                yield 0xFF00, found

    def hand_over(self, event: Any) -> Iterator[Any]:
        found = self.matching(event.identifier)
        if hasattr(event.request, "MoveDestination"):
            yield self.known.get(event.move_destination.strip(), (None, None))
        yield len(found)
        for number, ds in enumerate(found):
            if number < self.lose:
                ds.SOPClassUID = "1.2.3"  # for which there is no context
            yield 0xFF00, ds


@contextmanager
def archive(**behaviour: Any) -> Iterator[Archive]:
    """An archive for the length of the block."""
    kept = Archive(**behaviour)
    entity = AE("ARCHIVE")
    entity.require_called_aet = True
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(
            context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True
        )
    for name in (
        "Verification",
        *(f"StudyRootQueryRetrieveInformationModel{n}" for n in ("Find", "Get", "Move")),
    ):
        entity.add_supported_context(getattr(sop_class, name))
    entity.requested_contexts = AllStoragePresentationContexts[:100]
    handlers = [
        (evt.EVT_C_ECHO, lambda event: 0),
        (evt.EVT_C_STORE, kept.take),
        (evt.EVT_C_FIND, kept.search),
        (evt.EVT_C_GET, kept.hand_over),
        (evt.EVT_C_MOVE, kept.hand_over),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    kept.node = Node("ARCHIVE", "127.0.0.1", server.server_address[1], timeout=20.0)
    try:
        yield kept
    finally:
        server.shutdown()
