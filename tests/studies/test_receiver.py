"""What is stored with us is on the disk before we say so, once, and only from whom we know."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit.studies.access import PacsError
from medvit.studies.association import Node
from medvit.studies.dimse import echo, store
from medvit.studies.receiver import receiving
from tests.studies.dicom.encoding import save_as
from tests.studies.dicom.synthetic import made_up
from tests.studies.dicom_out.synthetic import write_series


def received(inbox: Path) -> list[Path]:
    return sorted(p for p in inbox.rglob("*") if p.is_file())


def test_instances_lie_by_study_and_series_under_names_that_tell_nothing(tmp_path):
    paths, _ = write_series(tmp_path / "ct", (20, 16, 3))
    (tmp_path / "inbox" / "a").mkdir(parents=True)
    (tmp_path / "inbox" / "a" / ".partial-1.dcm").write_bytes(b"of a process that was killed")
    with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0) as port:
        node = Node("MEDVIT", "127.0.0.1", port, timeout=10.0)
        echo(node)
        assert store(node, paths) == 3
        assert store(node, paths) == 3  # again, as archives do
    files = received(tmp_path / "inbox")
    assert len(files) == 3 and len({p.parent for p in files}) == 1
    assert len(files[0].relative_to(tmp_path / "inbox").parts) == 3
    assert {pydicom.dcmread(p).PixelData for p in files} == {pydicom.dcmread(p).PixelData for p in paths}
    image = pydicom.dcmread(paths[0])
    for secret in (image.PatientID, image.StudyInstanceUID, image.SOPInstanceUID):
        assert not any(secret in str(p.relative_to(tmp_path)) for p in files)


def test_other_content_under_one_uid_is_refused_and_the_first_stays(tmp_path):
    (path,), _ = write_series(tmp_path / "ct", (20, 16, 1))
    image = pydicom.dcmread(path)
    image.PixelData = np.zeros((16, 20), np.int16).tobytes()
    image.save_as(tmp_path / "other.dcm")
    with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0) as port:
        node = Node("MEDVIT", "127.0.0.1", port, timeout=10.0)
        store(node, [path])
        with pytest.raises(PacsError, match="0x0111"):
            store(node, [tmp_path / "other.dcm"])
    (kept,) = received(tmp_path / "inbox")
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(path).PixelData


def test_only_named_senders_call_and_only_by_our_title(tmp_path):
    (path,), _ = write_series(tmp_path / "ct", (20, 16, 1))
    with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0, senders=["SCANNER"]) as port:
        node = Node("MEDVIT", "127.0.0.1", port, timeout=10.0)
        with pytest.raises(PacsError, match="rejects STRANGER"):
            store(node, [path], title="STRANGER")
        with pytest.raises(PacsError, match="rejects SCANNER"):
            store(Node("OTHER", "127.0.0.1", port, timeout=10.0), [path], title="SCANNER")
        assert store(node, [path], title="SCANNER") == 1


@pytest.mark.parametrize("fault", ["no study", "deflated"])
def test_what_could_not_be_filed_or_could_be_a_bomb_is_refused(fault, tmp_path):
    image = made_up().datasets()[0]
    if fault == "no study":
        del image.StudyInstanceUID
    path = save_as(image, tmp_path / "image.dcm", "implicit" if fault == "no study" else "deflated")
    with (
        receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0) as port,
        pytest.raises(PacsError, match=r"0xc000|cannot be reached|not taken"),
    ):
        store(Node("MEDVIT", "127.0.0.1", port, timeout=10.0), [path])
    assert received(tmp_path / "inbox") == []


def test_a_port_in_use_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = {"title": "MEDVIT", "host": "127.0.0.1", "port": taken.getsockname()[1]}
        with pytest.raises(PacsError, match="cannot be bound"), receiving(tmp_path, **where):
            pass
