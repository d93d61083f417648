"""A server of MONAI Label, for which an HTTP server in this process stands in."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from MedViTLib.compute import Job, Result, Settings
from MedViTLib.errors import Cancelled, MedViTError
from MedViTLib.nifti import read_nifti, write_nifti
from MedViTLib.server import ServerEngine, decode_form, encode_form, label_names
from MedViTLib.volume import Volume

from tests.slicer.grids import AFFINES

MODELS = {
    "brain": {
        "description": "Segments",
        "labels": {"spleen": 2, "liver": 1, "background": 0},
        "config": {"version": ["2+label.1", "2"]},
    },
    "listed": {"labels": ["liver", "spleen"]},
    "restorer": {"labels": {}},
    "gap": {"labels": {"liver": 1, "spleen": 4}},
    **{
        name: {"labels": {"liver": 1}}
        for name in ("refuse", "fail", "hang", "trickle", "hang_up", "no_image", "json")
    },
}


class Server(ThreadingHTTPServer):
    """Echoes the image that it is sent, as a label map or a restored image."""

    daemon_threads = True
    token = ""
    asked: dict
    hanging = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "").partition(" ")[2]
        if self.server.token and given != self.server.token:
            return self._json({"detail": "log in first"}, 401)
        self._json({"models": MODELS} if self.path == "/info/" else {"detail": "not here"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = decode_form(self.headers, body)  # type: ignore[arg-type]
        file_name = body.partition(b'filename="')[2].partition(b'"')[0].decode()
        url = urlsplit(self.path)
        model, params = url.path.rpartition("/")[2], json.loads(parts["params"])
        self.server.asked = {"query": parse_qs(url.query), "params": params, "file": file_name}
        if model == "hang":
            self.server.hanging.set()
            time.sleep(20)
        elif model == "trickle":
            self.send_response(200)
            self.send_header("Content-Type", "multipart/form-data; boundary=x")
            self.end_headers()
            self.wfile.write(b"--x")
            self.server.hanging.set()
            time.sleep(20)
        elif model == "hang_up":
            self.connection.close()
        elif model == "refuse":
            self._json({"detail": "holds 2 studies; give one (not-one-study)"}, 422)
        elif model == "fail":
            self._answer(b"Internal Server Error", "text/plain", 500)
        elif model == "json":
            self._json({"params": {}})
        else:
            self._form(model, parts["file"])

    def _form(self, model: str, image: bytes) -> None:
        said = (
            {
                "volumes_ml": {"liver": 1.0, "spleen": 2.5},
                "notes": ["thick slices"],
                "verdict": {"light": "amber", "finding": "cut off"},
            }
            if model == "brain"
            else {}
        )
        boundary = b"boundary-of-the-answer"
        named = [(b"params", json.dumps(said).encode()), (b"image", image)]
        if model == "no_image":
            named.pop()
        head = b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        body = b"".join(head % (boundary, *part) for part in named) + b"--%s--\r\n" % boundary
        self._answer(body, f"multipart/form-data; boundary={boundary.decode()}")

    def _json(self, content: object, status: int = 200) -> None:
        self._answer(json.dumps(content).encode(), "application/json", status)

    def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(server: Server) -> ServerEngine:
    return ServerEngine(f"http://127.0.0.1:{server.server_port}/")


def start(engine: ServerEngine, bundle: str, volume: Volume, folder: Path) -> Job:
    return Job(lambda job: engine.run(bundle, volume, folder, job)).start()


def run(engine: ServerEngine, bundle: str, volume: Volume, folder: Path) -> Result:
    job = start(engine, bundle, volume, folder)
    assert job.wait(20)
    return job.result()


def label_map(name: str = "RAS") -> Volume:
    voxels = np.zeros((7, 6, 5), np.int16)
    voxels[1:3, 2, 3] = 2
    return Volume(voxels, AFFINES[name], "Head & neck")


def test_bundles_are_listed(engine: ServerEngine) -> None:
    assert [b.name for b in engine.bundles()] == list(MODELS)
    assert engine.bundles()[0].task == "Segments"


@pytest.mark.parametrize("name", AFFINES)
def test_a_segmentation_comes_back_named_and_in_place(
    name: str, engine: ServerEngine, server: Server, tmp_path: Path
) -> None:
    volume = label_map(name)
    result = run(engine, "brain", volume, tmp_path)
    assert result.labels == ("liver", "spleen")
    assert result.volumes_ml == {"liver": 1.0, "spleen": 2.5}
    assert result.volume.same_grid(volume)
    np.testing.assert_array_equal(result.volume.voxels, volume.voxels)
    assert result.notes == ("thick slices",)
    assert server.asked["query"]["image"] == ["Head & neck"]
    assert server.asked["file"] == "Head_neck.nii.gz"
    assert server.asked["params"] == {"result_extension": ".nii.gz", "result_dtype": "uint16"}
    assert not list(tmp_path.iterdir())


def test_volumes_are_measured_where_the_server_says_none(engine: ServerEngine, tmp_path: Path) -> None:
    result = run(engine, "listed", label_map(), tmp_path)
    assert result.volumes_ml == {"liver": 0.0, "spleen": pytest.approx(0.002)}


def test_restored_images_are_asked_for_and_come_back_in_full_precision(
    engine: ServerEngine, server: Server, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    result = run(engine, "restorer", Volume(voxels, AFFINES["permuted"]), tmp_path)
    assert server.asked["params"]["result_dtype"] == "float32"
    assert result.labels == ()
    np.testing.assert_array_equal(result.volume.voxels, voxels)


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        ("absent", "has no bundle 'absent'; choose another$"),
        ("refuse", r"^holds 2 studies; give one \(not-one-study\)$"),
        ("fail", r"failed \(HTTP 500\) and did not say why; its log does$"),
        ("hang_up", "went away while it was asked"),
        ("no_image", "answered without an image"),
        ("json", "is not a form"),
        ("gap", "the labels of gap are not numbered from 1 without a gap"),
    ],
)
def test_each_failure_is_one_sentence(bundle: str, says: str, engine: ServerEngine, tmp_path: Path) -> None:
    with pytest.raises(MedViTError, match=says):
        run(engine, bundle, label_map(), tmp_path)


def test_a_server_that_is_gone_or_none_of_monai_label(engine: ServerEngine) -> None:
    with pytest.raises(MedViTError, match="is not a server of MONAI Label"):
        ServerEngine(engine.address + "/elsewhere").bundles()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = ServerEngine(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(MedViTError, match=r"no server answers at .*`medvit label FOLDER`"):
            nobody.bundles()


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(MedViTError, match="is not the address of a server"):
        ServerEngine(address)


def test_a_server_that_is_too_slow(engine: ServerEngine, tmp_path: Path) -> None:
    engine.patience = 0.2
    with pytest.raises(MedViTError, match="did not answer in time"):
        run(engine, "hang", label_map(), tmp_path)


@pytest.mark.parametrize("bundle", ["hang", "trickle"])
def test_cancel_does_not_wait_for_the_server(
    bundle: str, engine: ServerEngine, server: Server, tmp_path: Path
) -> None:
    server.hanging.clear()
    job = start(engine, bundle, label_map(), tmp_path)
    assert server.hanging.wait(10)
    job.cancel()
    assert job.wait(5)
    with pytest.raises(Cancelled):
        job.result()


def test_the_token_is_sent(server: Server, engine: ServerEngine) -> None:
    server.token = "secret"
    with pytest.raises(MedViTError, match=r"^log in first$"):
        engine.bundles()
    assert ServerEngine(engine.address, "secret").bundles()


def test_files_of_a_form_keep_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"\r\n--\r\n\n\r" + bytes(range(256)) + b"\r\n")
    kind, body = encode_form({"params": '{"name": "Schädel"}'}, {"file": path})
    headers = Message()
    headers["Content-Type"] = kind
    parts = decode_form(headers, body)  # type: ignore[arg-type]
    assert parts["file"] == path.read_bytes()
    assert parts["params"].decode() == '{"name": "Schädel"}'


def test_label_names_go_by_value_not_by_the_order_they_are_sent_in() -> None:
    assert label_names({"c": 3, "a": 1, "b": 2}, "x") == ("a", "b", "c")
    assert label_names(None, "x") == ()
    for odd in ({"a": 1, "b": 1}, {"a": "1"}, {"a": 1, "b": None}):
        with pytest.raises(MedViTError, match="not numbered from 1"):
            label_names(odd, "x")


def test_what_is_sent_is_the_volume(tmp_path: Path) -> None:
    volume = label_map("oblique")
    _, body = encode_form({}, {"file": write_nifti(tmp_path / "image.nii.gz", volume)})
    sent = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
    assert read_nifti(sent, "sent").same_grid(volume)


def test_settings_go_along_and_the_verdict_comes_back(
    engine: ServerEngine, server: Server, tmp_path: Path
) -> None:
    volume = Volume(np.zeros((4, 5, 6), np.uint8), AFFINES["RAS"], "head")
    settings = Settings(device="gpu", overlap="0.5", tta=True, version="2")
    job = Job(lambda job: engine.run("brain", volume, tmp_path, job, settings)).start()
    assert job.wait(20)
    assert job.result().verdict == "amber: cut off"
    set_here = {"device": "cuda", "overlap": 0.5, "tta": True, "version": "2"}
    assert server.asked["params"].items() >= set_here.items()
    run(engine, "brain", volume, tmp_path)
    assert not set_here.keys() & server.asked["params"].keys()
    assert {b.name: b.versions for b in engine.bundles()}["brain"] == ("2+label.1", "2")
