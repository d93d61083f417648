"""Nodes as they are written, answers that are no success, and nodes that cannot be reached."""

from __future__ import annotations

import sys

import pytest
from pydicom import Dataset

from medvit.errors import MissingExtraError
from medvit.studies.access import PacsError
from medvit.studies.association import Node, application, associated, check_status

NODE = Node("PACS", "127.0.0.1", 1, timeout=2)


@pytest.mark.parametrize(
    "text", ["ARCHIVE", "A@host", "A@host:0", "@host:104", "x" * 17 + "@host:104", "A@h:99999"]
)
def test_nodes_are_written_in_one_way(text):
    with pytest.raises(PacsError, match="write it as TITLE@host:port"):
        Node.parse(text)


def test_a_node_as_it_is_written():
    assert Node.parse("ORTHANC@pacs.example:4242") == Node("ORTHANC", "pacs.example", 4242)
    assert Node.parse("A@[::1]:104").host == "::1"
    secure = Node.parse("ORTHANC@pacs.example:2762+tls")
    assert secure == Node("ORTHANC", "pacs.example", 2762, tls=True)
    assert str(secure) == "ORTHANC@pacs.example:2762+tls"


def test_a_node_reads_as_it_is_written() -> None:
    for text in ("ORTHANC@pacs.example:4242", "ORTHANC@pacs.example:2762+tls", "A@[::1]:104"):
        assert str(Node.parse(text)) == text


def answer(status: int | None) -> Dataset:
    given = Dataset()
    if status is not None:
        given.Status = status
    return given


def test_only_success_is_success() -> None:
    check_status(answer(0x0000), NODE, "the echo")
    with pytest.raises(PacsError, match=r"PACS@127\.0\.0\.1:1 refused the echo \(status 0xa700\)"):
        check_status(answer(0xA700), NODE, "the echo")
    with pytest.raises(PacsError, match="did not answer the echo in time; try again"):
        check_status(answer(None), NODE, "the echo")


def test_a_node_that_does_not_listen_is_named_in_a_sentence() -> None:
    with (
        pytest.raises(PacsError, match=r"PACS@127\.0\.0\.1:1 cannot be reached; check host, port and title"),
        associated(NODE, "MEDVIT", [("1.2.840.10008.1.1", None)]),
    ):
        pass


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    with pytest.raises(MissingExtraError, match=r"medvit\[pacs\]"):
        application("MEDVIT")
