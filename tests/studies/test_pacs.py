from __future__ import annotations

import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medvit.cli.pacs import app
from medvit.errors import StudyError
from medvit.studies.access import Access, PacsError
from medvit.studies.dicom_out import (
    Algorithm,
    encapsulated_pdf,
    measurement_report,
    read_source,
    save_dicom,
    segmentation,
)
from medvit.studies.labels import load_label_table
from medvit.studies.pacs import dicom_files, pull, push
from tests.studies.dicom_out.synthetic import write_series

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Answers:
    """A stand-in for a PACS: the status and content it answers with, and what it was asked."""

    status: int = 200
    content: bytes = b"[]"
    instance: bytes = b""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Answers]:
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answers.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
            kind, content = "application/dicom+json", answers.content
            if answers.instance and "?" not in self.path and self.command == "GET":
                kind = 'multipart/related; type="application/dicom"; boundary=edge'
                head = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
                content = head + answers.instance + b"\r\n--edge--\r\n"
            self.send_response(answers.status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    answers.url = f"http://127.0.0.1:{http.server_port}/dicom-web"
    yield answers
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"[]", "no series that matches PatientID"),
        (200, b"<html>", "not as a DICOMweb service"),
        (401, b"", "denies access"),
        (404, b"", "no DICOMweb service at this path"),
        (500, b"", "HTTP status 500"),
    ],
)
def test_each_failure_is_one_sentence_without_the_patient(status, content, message, server, tmp_path, caplog):
    server.status, server.content = status, content
    with pytest.raises(PacsError, match=message) as error:
        pull(server.url, {"PatientID": "SECRET-17"}, tmp_path)
    assert "SECRET-17" not in str(error.value)
    assert error.value.__cause__ is None
    assert "SECRET-17" not in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_credentials_reach_the_server_and_no_log(server, tmp_path, caplog):
    for access, header in (
        (Access(token="t0ken"), "Bearer t0ken"),
        (Access("jane", "pa55"), "Basic amFuZTpwYTU1"),
    ):
        with pytest.raises(PacsError):
            pull(server.url, {"PatientID": "1"}, tmp_path, access)
        assert server.asked[-1][2] == header
        assert not any(secret in repr(access) + caplog.text for secret in ("t0ken", "pa55"))


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_both_verbs_take_the_options_of_a_connection(verb, server, tmp_path):
    paths, _ = write_series(tmp_path / "ct", (20, 16, 1))
    server.status = 401
    rest = {"pull": ["PatientID=1", "-o", str(tmp_path / "in")], "push": [str(paths[0])]}[verb]
    for options, secrets in ((["--token", "t0ken"], {}), ([], {"MEDVIT_PACS_TOKEN": "t0ken"})):
        done = CliRunner().invoke(app, [verb, server.url, *rest, *options], env=secrets)
        assert isinstance(done.exception, PacsError)
        assert server.asked[-1][2] == "Bearer t0ken"


def test_query_reaches_the_server(server, tmp_path):
    with pytest.raises(PacsError):
        pull(server.url, {"StudyInstanceUID": "1.2.3", "Modality": "CT"}, tmp_path)
    assert server.asked[-1][1].startswith("/dicom-web/studies/1.2.3/series?")
    assert "Modality=CT" in server.asked[-1][1] or "00080060=CT" in server.asked[-1][1]


@pytest.mark.parametrize("promised", [1, 3])
def test_a_series_comes_whole_or_not_at_all(promised, server, tmp_path):
    (path,), _ = write_series(tmp_path / "ct", (20, 16, 1))
    image = pydicom.dcmread(path)
    found = pydicom.Dataset()
    found.StudyInstanceUID, found.SeriesInstanceUID = image.StudyInstanceUID, image.SeriesInstanceUID
    found.NumberOfSeriesRelatedInstances = promised
    server.content, server.instance = f"[{found.to_json()}]".encode(), path.read_bytes()
    if promised == 1:
        (folder,) = pull(server.url, {"PatientID": "1"}, tmp_path / "in")
        assert [pydicom.dcmread(p) for p in folder.iterdir()] == [image]
        assert "P1" not in str(folder) and image.SeriesInstanceUID not in str(folder)
    else:
        with pytest.raises(PacsError, match="sent 1 of 3 instances"):
            pull(server.url, {"PatientID": "1"}, tmp_path / "in")
        assert list((tmp_path / "in").iterdir()) == []


def store_answer(stored: list[str], reasons: list[int]) -> bytes:
    """What a service answers to a store: the instances that it names, and the reasons of failures."""
    answer = pydicom.Dataset()
    for sequence, keyword, values in (
        ("ReferencedSOPSequence", "ReferencedSOPInstanceUID", stored),
        ("FailedSOPSequence", "FailureReason", reasons),
    ):
        items = [pydicom.Dataset() for _ in values]
        for item, value in zip(items, values, strict=True):
            setattr(item, keyword, value)
        setattr(answer, sequence, items)
    return answer.to_json().encode()


def test_a_file_is_stored_where_the_answer_names_it(server, tmp_path):
    (path,), _ = write_series(tmp_path / "ct", (20, 16, 1))
    uid = str(pydicom.dcmread(path).SOPInstanceUID)
    server.content = store_answer([uid], [])
    assert push(server.url, [path]) == 1


@pytest.mark.parametrize(
    ("stored", "reasons", "why"),
    [([], [0xA700], "0xa700"), ([], [], "does not name it"), (["1.2.3"], [], "does not name it")],
)
def test_a_file_that_was_not_stored_is_named(stored, reasons, why, server, tmp_path):
    (path,), _ = write_series(tmp_path / "ct", (20, 16, 1))
    server.content = store_answer(stored, reasons)
    with pytest.raises(PacsError, match=rf"refused 1 of 1 files; first .*IM0000\.dcm.*{why}"):
        push(server.url, [path])


def test_of_a_folder_all_dicom_files_are_meant(tmp_path):
    paths, _ = write_series(tmp_path / "ct", (8, 8, 2))
    bare = paths[0].rename(tmp_path / "ct" / "IM0000")
    (tmp_path / "ct" / "notes.txt").write_text("x")
    assert dicom_files([tmp_path / "ct"]) == [bare, paths[1]]
    assert dicom_files([bare]) == [bare]


def test_access_from_the_environment(monkeypatch):
    for name in ("TOKEN", "CA_FILE", "KEY"):
        monkeypatch.setenv(f"MEDVIT_PACS_{name}", f"a{name}")
    assert Access.from_environment() == Access(token="aTOKEN", ca_file=Path("aCA_FILE"), key=Path("aKEY"))


def test_a_conflict_names_the_file(server, tmp_path):
    (path,), _ = write_series(tmp_path / "ct", (20, 16, 1))
    server.status = 409
    with pytest.raises(PacsError, match=r"IM0000\.dcm: refused \(409\)"):
        push(server.url, [path])


def test_unreachable(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/dicom-web"
        with pytest.raises(PacsError, match="cannot be reached"):
            pull(url, {"PatientID": "1"}, tmp_path)


@pytest.mark.parametrize(
    ("url", "access", "message"),
    [
        ("pacs/dicom-web", Access(), "not the address"),
        ("https://jane:pa55@pacs/dicom-web", Access(), "pass them separately"),
        ("https://pacs/dicom-web", Access(user="jane", token="t"), "both a token and a user"),
        ("http://pacs.example/dicom-web", Access(token="t"), "without encryption"),
        ("https://pacs/dicom-web", Access(ca_file=Path("none.pem")), r"none\.pem.*does not exist"),
    ],
)
def test_settings_that_contradict_or_expose(url, access, message, tmp_path):
    with pytest.raises(PacsError, match=message) as error:
        pull(url, {"PatientID": "1"}, tmp_path, access)
    assert "pa55" not in str(error.value)


def test_queries_and_files_that_make_no_sense(tmp_path):
    with pytest.raises(PacsError, match="whole archive"):
        pull("http://localhost/dicom-web", {"PatientID": ""}, tmp_path)
    with pytest.raises(PacsError, match="PatentID is not a DICOM keyword"):
        pull("http://localhost/dicom-web", {"PatentID": "1"}, tmp_path)
    with pytest.raises(PacsError, match="no file"):
        push("http://localhost/dicom-web", [])
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(StudyError, match=r"note\.txt.*not a DICOM file"):
        push("http://localhost/dicom-web", [tmp_path / "note.txt"])


@dataclass(frozen=True)
class Orthanc:
    url: str
    access: Access


@pytest.fixture(params=["http", "https"])
def orthanc(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Orthanc]:
    """A real Orthanc on loopback with a password, and over https with certificates on both sides."""
    if shutil.which("Orthanc") is None or not DICOMWEB_PLUGIN.exists():
        pytest.skip("Orthanc is missing: apt-get install orthanc orthanc-dicomweb")
    with running_orthanc(tmp_path / "orthanc") as port:
        access = Access("medvit", "pa55word")
        if request.param == "http":
            yield Orthanc(f"http://localhost:{port}/dicom-web", access)
            return
        pem = certificate(tmp_path)
        with tls_front(port, pem) as tls_port:
            yield Orthanc(
                f"https://localhost:{tls_port}/dicom-web", replace(access, ca_file=pem, certificate=pem)
            )


@contextmanager
def running_orthanc(folder: Path, **more: object) -> Iterator[int]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"medvit": "pa55word"},
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    } | more
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", folder / "orthanc.json"], stdout=log, stderr=log)
    try:
        wait_for(port, process, folder / "log")
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def tls_front(port: int, pem: Path) -> Iterator[int]:
    """TLS with client certificates before a plain port: Debian's Orthanc crashes on its own TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pem)
    context.load_cert_chain(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                outside = context.wrap_socket(self.request, server_side=True)
            except OSError:
                return
            with outside, socket.create_connection(("127.0.0.1", port)) as inside:
                back = threading.Thread(target=pump, args=(inside, outside), daemon=True)
                back.start()
                pump(outside, inside)
                back.join(10)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as front:
        front.daemon_threads = True
        threading.Thread(target=front.serve_forever, args=(0.01,), daemon=True).start()
        yield front.server_address[1]
        front.shutdown()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def certificate(folder: Path) -> Path:
    """A certificate that signs itself, with its key, for localhost."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key -out crt"
    alternative = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *alternative], cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "crt").read_text() + (folder / "key").read_text())
    return folder / "both.pem"


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            pytest.fail(f"Orthanc did not start: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("Orthanc did not listen within 30 s")


@pytest.mark.debian
def test_round_trip_with_orthanc(orthanc, tmp_path):
    paths, grid = write_series(tmp_path / "ct", (64, 48, 12))
    assert push(orthanc.url, paths, orthanc.access) == len(paths)
    query = {"PatientID": "P1", "Modality": "CT"}
    (fetched,) = pull(orthanc.url, query, tmp_path / "in", orthanc.access)
    assert_identical(paths, sorted(fetched.iterdir()))

    results = [tmp_path / "out" / name for name in ("seg.dcm", "labelmap.dcm", "sr.dcm", "pdf.dcm")]
    write_results(sorted(fetched.iterdir()), grid, results)
    runner = CliRunner()
    secrets = {"MEDVIT_PACS_USER": "medvit", "MEDVIT_PACS_PASSWORD": "pa55word"}
    tls = [f"--ca-file={orthanc.access.ca_file}", f"--certificate={orthanc.access.certificate}"]
    options = tls if orthanc.access.ca_file else []
    stored = runner.invoke(app, ["push", orthanc.url, str(tmp_path / "out"), *options], env=secrets)
    assert (stored.exit_code, stored.output) == (0, "4 files stored\n"), stored.exception
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    command = ["pull", orthanc.url, f"StudyInstanceUID={study}", "-o", str(tmp_path / "again"), *options]
    got = runner.invoke(app, command, env=secrets)
    assert got.exit_code == 0, got.exception
    assert_identical([*paths, *results], sorted((tmp_path / "again").rglob("*.dcm")))
    assert not [p for p in (tmp_path / "again").rglob("*") if p.name.startswith(".")]


@pytest.mark.debian
def test_wrong_password_or_certificate(orthanc, tmp_path):
    right = orthanc.access
    wrong = Access("medvit", "guess", ca_file=right.ca_file, certificate=right.certificate)
    with pytest.raises(PacsError, match="denies access"):
        pull(orthanc.url, {"PatientID": "P1"}, tmp_path, wrong)
    if right.ca_file:
        with pytest.raises(PacsError, match="TLS failed"):
            pull(orthanc.url, {"PatientID": "P1"}, tmp_path, Access("medvit", "pa55word"))
        with pytest.raises(PacsError, match="TLS failed"):
            pull(orthanc.url, {"PatientID": "P1"}, tmp_path, Access("medvit", "p", ca_file=right.ca_file))


def write_results(paths: list[Path], grid, results: list[Path]) -> None:
    source, table, algorithm = read_source(paths), load_label_table("brain"), Algorithm("test", "1")
    label_map = np.zeros(grid.shape, np.uint8)
    label_map[10:40, 10:30, 2:9] = 3
    binary = segmentation(label_map, grid, source, table, algorithm, encoding="binary")
    objects = [
        binary,
        segmentation(label_map, grid, source, table, algorithm, encoding="labelmap"),
        measurement_report({table.structures[2].name: 7.5}, binary, source, table, algorithm),
        encapsulated_pdf(b"%PDF-1.4 report", source, algorithm, title="Report"),
    ]
    for path, result in zip(results, objects, strict=True):
        save_dicom(result, path)


def assert_identical(sent: list[Path], came: list[Path]) -> None:
    """Every element of every object, and its transfer syntax."""
    sent_objects = {i.SOPInstanceUID: i for i in map(pydicom.dcmread, sent)}
    came_objects = {i.SOPInstanceUID: i for i in map(pydicom.dcmread, came)}
    assert sent_objects.keys() == came_objects.keys()
    for uid, one in sent_objects.items():
        other = came_objects[uid]
        assert other == one
        assert other.file_meta.TransferSyntaxUID == one.file_meta.TransferSyntaxUID
