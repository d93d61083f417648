"""What the command line refuses before a server starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.label import compat, launch


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_others_are_only_let_in_with_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="--token"):
        launch.serve(str(tmp_path), host=host)


def test_studies_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="nowhere"):
        launch.serve(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("origin", ["*", "viewer.example.org", "https://viewer.example.org/ohif", "null"])
def test_an_origin_is_written_as_browsers_do(origin: str, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="is not an origin"):
        launch.serve(str(tmp_path), origins=[origin])


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(MedvitError, match=str(taken.getsockname()[1])):
            launch.serve(str(tmp_path), port=taken.getsockname()[1])


def test_without_monai_label_the_command_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(launch, "environment", lambda: tmp_path)
    with pytest.raises(MedvitError, match="medvit label --install"):
        launch.label_python()


def test_stand_ins_say_when_they_can_go_and_refuse_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in compat.STAND_INS:
        monkeypatch.delitem(compat.sys.modules, name, raising=False)
    placed = compat.install()
    try:
        assert "pydicom_seg" in placed
        for name in placed:
            assert "until" in (compat.sys.modules[name].__doc__ or "")
        if "torchvision.utils" in placed:
            from torchvision.utils import make_grid

            with pytest.raises(ImportError, match="make_grid"):
                make_grid(None)
        assert compat.install() == []
    finally:
        for name in placed:
            compat.sys.modules.pop(name, None)


@pytest.mark.parametrize(("word", "meaning"), [("yes", 1), ("TRUE", 1), ("0", 0), ("off", 0)])
def test_without_distutils_words_still_mean_yes_or_no(
    word: str, meaning: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = compat.importlib.util.find_spec
    hidden = lambda name: None if name.startswith("distutils") else find(name)  # noqa: E731
    monkeypatch.setattr(compat.importlib.util, "find_spec", hidden)
    for name in [name for name in compat.sys.modules if name.partition(".")[0] == "distutils"]:
        monkeypatch.delitem(compat.sys.modules, name)
    placed = compat.install()
    try:
        from distutils.util import strtobool

        assert strtobool(word) == meaning
        with pytest.raises(ValueError, match="neither"):
            strtobool("perhaps")
    finally:
        for name in placed:
            compat.sys.modules.pop(name, None)
