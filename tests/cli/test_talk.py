"""What a verb says around its answer: one document, its exit code, and a word where it is interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable

import typer
from click.testing import Result
from typer.testing import CliRunner

from medvit.cli.talk import Answer, answering


def invoked(verb: Callable[..., Answer | None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(answering(verb))
    return CliRunner().invoke(app, list(arguments))


def interrupted(study: str) -> Answer:
    """A verb that never answers."""
    raise KeyboardInterrupt


def counted(study: str, times: int = 1) -> Answer:
    """A verb that answers."""
    print("progress of a library")
    return Answer({"study": study, "times": times}, f"{study} x {times}", 3 if times > 1 else 0, "too often")


def test_an_interrupted_verb_says_so() -> None:
    done = invoked(interrupted, "head")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "medvit: interrupted\n"


def test_the_document_stands_alone_on_standard_output() -> None:
    done = invoked(counted, "head", "--times", "2", "--json")
    assert json.loads(done.stdout) == {"study": "head", "times": 2}
    assert "progress of a library" in done.stderr
    assert done.exit_code == 3


def test_a_quiet_verb_says_only_what_went_wrong() -> None:
    assert invoked(counted, "head", "-q").output == ""
    assert "too often" in invoked(counted, "head", "--times", "2", "-q").stderr
    assert "head x 1" in invoked(counted, "head").stdout


def test_quiet_and_verbose_exclude_each_other() -> None:
    assert "leave out one of them" in str(invoked(counted, "head", "-q", "-v").exception)
