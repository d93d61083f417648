"""The listener: each study once it is complete, its results sent on, and nothing lost whatever happens."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pydicom
import pytest

from medvit.errors import MedvitError
from medvit.runs.listener import Listener, Processed, State, listen, read_routes
from medvit.studies.access import PacsError
from medvit.studies.association import Node
from medvit.studies.dimse import find, move, store
from tests.runs.listening import images_of, process, result_of
from tests.studies.dicom_out.synthetic import write_series
from tests.studies.dimse_peer import archive
from tests.studies.test_dimse import free_port
from tests.studies.test_pacs import running_orthanc


def arrived(output: Path, study: str, count: int = 3) -> Path:
    """A study in the inbox, as the receiver leaves it."""
    folder = output / "inbox" / study / "series"
    paths, _ = write_series(output.parent / f"made-{study}", (8, 8, count))
    folder.mkdir(parents=True)
    for path in paths:
        shutil.copy(path, folder / path.name)
    return folder


def state_of(output: Path, study: str) -> State:
    return State(**json.loads((output / "states" / f"{study}.json").read_text()))


def work(listener: Listener, until: float = 0.5) -> None:
    """Let a listener work for a while."""
    stop = threading.Event()
    threading.Timer(until, stop.set).start()
    listener.run(stop, every=0.05)


def test_results_go_to_the_receiver_once_the_study_has_settled(tmp_path):
    output, said = tmp_path / "out", []
    folder = arrived(output, "a")
    with archive() as peer:
        early = Listener(output, lambda s: process(s, output), peer.node, settle=60, say=said.append)
        work(early)
        assert peer.held == {} and not (output / "states").exists()
        listener = Listener(output, lambda s: process(s, output), peer.node, settle=0, say=said.append)
        work(listener)
        work(listener)  # what is done is not done again
    expected = {result_of(str(pydicom.dcmread(p).SOPInstanceUID)) for p in folder.iterdir()}
    assert set(peer.held) == expected and len(peer.callers) == 3
    assert state_of(output, "a").stage == "sent"
    assert said == [f"a: 3 results sent to {peer.node}"]


def test_results_wait_for_a_receiver_that_is_away(tmp_path):
    output, made, said = tmp_path / "out", [], []
    arrived(output, "a")

    def counted(study: Path) -> Processed:
        made.append(study)
        return process(study, output)

    port = free_port()
    away = Listener(
        output, counted, Node("ARCHIVE", "127.0.0.1", port, timeout=2.0), settle=0, say=said.append
    )
    work(away)
    assert state_of(output, "a").stage == "made" and "not sent yet" in said[0]
    with archive() as peer:
        work(Listener(output, counted, peer.node, settle=0, say=said.append))
        assert len(peer.held) == 3
    assert len(made) == 1 and state_of(output, "a").stage == "sent"


def test_images_that_come_late_meet_the_others(tmp_path):
    output, seen = tmp_path / "out", []
    folder = arrived(output, "a")

    def counted(study: Path) -> Processed:
        seen.append(len(images_of(study)))
        return process(study, output)

    listener = Listener(output, counted, settle=0, say=lambda _: None)
    work(listener)
    late, _ = write_series(tmp_path / "late", (8, 8, 1))
    shutil.copy(late[0], folder / "late.dcm")
    (folder / ".partial-1.dcm").write_bytes(b"being written")
    work(listener)
    assert seen == [3, 4]


def test_images_go_when_their_time_is_over_and_not_before(tmp_path):
    output = tmp_path / "out"
    folder = arrived(output, "a")
    work(Listener(output, lambda s: process(s, output), settle=0, keep=1, say=lambda _: None))
    assert len(list(folder.iterdir())) == 3
    for path in folder.iterdir():
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    work(Listener(output, lambda s: process(s, output), settle=0, keep=1, say=lambda _: None))
    assert not folder.exists() and state_of(output, "a").stage == "sent"


def test_a_study_that_fails_is_said_and_does_not_stop_the_others(tmp_path):
    output, said = tmp_path / "out", []
    arrived(output, "a")
    arrived(output, "b")

    def failing(study: Path) -> Processed:
        if study.name == "a":
            raise MedvitError("it cannot be read")
        return process(study, output)

    work(Listener(output, failing, settle=0, say=said.append))
    assert state_of(output, "a").stage == "failed" and state_of(output, "b").stage == "sent"
    assert "a: it cannot be read" in said


def test_one_folder_has_one_listener(tmp_path):
    stop = threading.Event()
    ready = threading.Event()
    thread = threading.Thread(
        target=listen, args=(tmp_path / "out", lambda s: Processed()),
        kwargs={"port": free_port(), "stop": stop, "ready": lambda _: ready.set()},
    )  # fmt: skip
    thread.start()
    assert ready.wait(20)
    with pytest.raises(MedvitError, match="another listener"):
        listen(tmp_path / "out", lambda s: Processed(), port=free_port())
    stop.set()
    thread.join(20)


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"bundle": "segformer3d_brain", "modalty": "MR"}]', "[{}]"]
)
def test_rules_that_make_no_sense_are_one_sentence(content, tmp_path):
    (tmp_path / "rules.json").write_text(content)
    with pytest.raises(MedvitError, match="is not a list of rules"):
        read_routes(tmp_path / "rules.json")


def test_rules_choose_by_modality_description_and_body_part(tmp_path):
    rules = [
        {"bundle": "segformer3d_brain", "modality": "MR", "description": "t1", "body_part": "^(head|brain)$"}
    ]
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    (route,) = read_routes(tmp_path / "rules.json")
    facts = {"modality": "MR", "series_description": "ax T1 post", "body_part": "HEAD"}
    assert route.rules.objection(facts) == ""
    for change in ({"modality": "CT"}, {"series_description": "ax T2"}, {"body_part": "KNEE"}):
        assert route.rules.objection(facts | change)


@pytest.mark.parametrize(
    ("kills", "studies"), [(2, 3), pytest.param(10, 12, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_nothing_is_lost_when_it_is_killed(tmp_path, kills, studies):
    chance = random.Random(4)
    output, ours = tmp_path / "out", free_port()
    expected: set[str] = set()
    with archive() as peer:
        command = [sys.executable, "-m", "tests.runs.listening", str(output), str(ours), str(peer.node.port)]
        node, lives = Node("MEDVIT", "127.0.0.1", ours, timeout=3.0), threading.Event()

        def send(study: int) -> None:
            paths, _ = write_series(tmp_path / f"s{study}", (8, 8, 3), seed=study)
            expected.update(result_of(str(pydicom.dcmread(p).SOPInstanceUID)) for p in paths)
            while True:  # until all were acknowledged
                try:
                    store(node, paths)
                    return
                except PacsError:
                    time.sleep(0.1)

        def send_all() -> None:
            for study in range(studies):
                send(study)
            lives.set()

        sender = threading.Thread(target=send_all, daemon=True)
        process = subprocess.Popen(command)
        sender.start()
        for _ in range(kills):
            wait_until_it_listens(ours, process)
            time.sleep(chance.uniform(0.0, 0.7))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(command)
        try:
            assert lives.wait(60)
            deadline = time.monotonic() + 60
            while set(peer.held) != expected and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    assert len(expected) == 3 * studies
    assert set(peer.held) == expected


def wait_until_it_listens(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("it does not listen")


@pytest.mark.debian
def test_orthanc_sends_studies_and_gets_results(tmp_path):
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is missing: apt-get install orthanc orthanc-dicomweb")
    paths, _ = write_series(tmp_path / "ct", (8, 8, 3))
    output, ours, theirs, stop = tmp_path / "out", free_port(), free_port(), threading.Event()
    dimse = {
        "DicomServerEnabled": True, "DicomAet": "ORTHANC", "DicomPort": theirs,
        "DicomModalities": {"medvit": {"AET": "MEDVIT", "Host": "127.0.0.1", "Port": ours}},
    }  # fmt: skip
    with running_orthanc(tmp_path / "orthanc", **dimse):
        node = Node("ORTHANC", "127.0.0.1", theirs, timeout=20.0)
        thread = threading.Thread(
            target=listen, args=(output, lambda study: process(study, output)),
            kwargs={"port": ours, "receiver": node, "settle": 0.5, "stop": stop, "say": lambda _: None},
        )  # fmt: skip
        thread.start()
        try:
            store(node, paths)
            assert move(node, {"PatientID": "P1"}, "MEDVIT") == 3
            deadline = time.monotonic() + 60
            while len(found := find(node, {"PatientID": "P1"})) < 2 and time.monotonic() < deadline:
                time.sleep(0.2)
        finally:
            stop.set()
            thread.join(20)
        assert len(found) == 2  # the series, and that of its results
