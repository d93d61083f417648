"""DIMSE against a peer on loopback, and against a real Orthanc."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from medvit.cli.pacs import app
from medvit.errors import StudyError
from medvit.studies.access import PacsError
from medvit.studies.association import Node
from medvit.studies.dimse import echo, find, get, move, store
from medvit.studies.receiver import receiving
from tests.studies.dicom.encoding import save_as
from tests.studies.dicom.synthetic import made_up
from tests.studies.dicom_out.synthetic import write_series
from tests.studies.dimse_peer import archive
from tests.studies.test_pacs import running_orthanc


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pixels_of(folder: Path) -> set[bytes]:
    return {pydicom.dcmread(p).PixelData for p in folder.rglob("*.dcm")}


def test_store_find_get_and_move(tmp_path):
    paths, _ = write_series(tmp_path / "ct", (20, 16, 4), SeriesDescription="Head")
    others, _ = write_series(tmp_path / "mr", (20, 16, 2), modality="MR", PatientID="P2")
    with archive() as peer:
        echo(peer.node)
        assert store(peer.node, [*paths, *others], title="SENDER") == 6
        assert set(peer.callers) == {"SENDER"}
        (series,) = find(peer.node, {"PatientID": "P1", "Modality": "CT"})
        image = pydicom.dcmread(paths[0])
        assert series.SeriesInstanceUID == image.SeriesInstanceUID
        assert (series.SeriesDescription, series.StudyDate) == ("Head", image.StudyDate)
        assert len(find(peer.node, {"StudyDate": str(image.StudyDate)})) == 2
        (folder,) = get(peer.node, {"PatientID": "P1"}, tmp_path / "in")
        assert pixels_of(folder) == pixels_of(tmp_path / "ct") and len(list(folder.iterdir())) == 4
        assert "P1" not in str(folder) and image.SeriesInstanceUID not in str(folder)
        with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0) as port:
            peer.known["MEDVIT"] = ("127.0.0.1", port)
            assert move(peer.node, {"PatientID": "P2"}, "MEDVIT") == 2
        assert pixels_of(tmp_path / "inbox") == pixels_of(tmp_path / "mr")


@pytest.mark.parametrize("syntax", ["rle", "jpegls", "j2k_lossless", "deflated", "implicit"])
def test_files_are_sent_as_they_are_encoded(syntax, tmp_path):
    path = save_as(made_up().datasets()[0], tmp_path / "image.dcm", syntax)
    with archive() as peer:
        assert store(peer.node, [path]) == 1
        (stored,) = peer.datasets()
    sent = pydicom.dcmread(path)
    assert stored.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert stored.PixelData == sent.PixelData


def test_what_is_not_done_is_said(tmp_path):
    paths, _ = write_series(tmp_path / "ct", (20, 16, 3))
    with archive() as peer:
        store(peer.node, paths)
        with pytest.raises(PacsError, match="no series that matches PatientID"):
            get(peer.node, {"PatientID": "nobody"}, tmp_path / "in")
        peer.lose = 1
        with pytest.raises(PacsError, match="could not complete the fetch: 1 instances failed"):
            get(peer.node, {"PatientID": "P1"}, tmp_path / "in")
        assert list((tmp_path / "in").iterdir()) == []
        peer.refuse = 0xA700
        with pytest.raises(PacsError, match=r"refused 3 of 3 files; first .*\.dcm: status 0xa700"):
            store(peer.node, paths)
        with pytest.raises(PacsError, match="rejects MEDVIT"):
            echo(Node("NOBODY", "127.0.0.1", peer.node.port, timeout=5.0))
    with pytest.raises(PacsError, match="cannot be reached"):
        echo(Node("ARCHIVE", "127.0.0.1", free_port(), timeout=5.0))


def test_queries_and_files_that_make_no_sense(tmp_path):
    node = Node("ARCHIVE", "127.0.0.1", free_port())
    with pytest.raises(PacsError, match="whole archive"):
        find(node, {})
    with pytest.raises(PacsError, match="PatentID is not a DICOM keyword"):
        find(node, {"PatentID": "1"})
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(StudyError, match="not a DICOM file"):
        store(node, [tmp_path / "note.txt"])
    with pytest.raises(PacsError, match="no file to store"):
        store(node, [])


def test_the_command(tmp_path):
    write_series(tmp_path / "ct", (20, 16, 3), SeriesDescription="Head")
    runner = CliRunner()
    with archive() as peer:
        node = str(peer.node)
        for command, output in (
            (["echo", node], "answers"),
            (["push", node, str(tmp_path / "ct")], "3 files stored"),
            (["find", node, "PatientID=P1"], "\tCT\tHead\t"),
            (["pull", node, "PatientID=P1", "-o", str(tmp_path / "in")], str(tmp_path / "in")),
        ):
            done = runner.invoke(app, command)
            assert done.exit_code == 0, done.exception
            assert output in done.output
        assert pixels_of(tmp_path / "in") == pixels_of(tmp_path / "ct")


@pytest.mark.debian
def test_orthanc(tmp_path):
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is missing: apt-get install orthanc orthanc-dicomweb")
    paths, _ = write_series(tmp_path / "ct", (64, 48, 6))
    port = free_port()
    with receiving(tmp_path / "inbox", title="MEDVIT", host="127.0.0.1", port=0) as ours:
        us = {"AET": "MEDVIT", "Host": "127.0.0.1", "Port": ours, "AllowGet": True}
        dimse = {
            "DicomServerEnabled": True, "DicomAet": "ORTHANC", "DicomPort": port, "DicomAlwaysAllowGet": True,
            "DicomModalities": {"medvit": us},
        }  # fmt: skip
        with running_orthanc(tmp_path / "orthanc", **dimse):
            node = Node("ORTHANC", "127.0.0.1", port, timeout=30.0)
            echo(node)
            assert store(node, paths) == 6
            (series,) = find(node, {"PatientID": "P1"})
            assert series.Modality == "CT"
            (folder,) = get(node, {"PatientID": "P1"}, tmp_path / "in")
            assert pixels_of(folder) == pixels_of(tmp_path / "ct")
            assert move(node, {"PatientID": "P1"}, "MEDVIT") == 6
    assert pixels_of(tmp_path / "inbox") == pixels_of(tmp_path / "ct")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a bundle, or --rules"),
        (["segformer3d_brain", "--host", "0.0.0.0"], "name each --sender"),
        (["segformer3d_brain", "--send-to", "PACS"], "write it as TITLE@host:port"),
        (["no_such_bundle"], "no_such_bundle"),
    ],
)
def test_a_listener_that_makes_no_sense_does_not_start(arguments, message, tmp_path):
    done = CliRunner().invoke(app, ["listen", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 1 and message in str(done.exception)
    assert not (tmp_path / "out").exists()
