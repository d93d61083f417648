"""Every verb: its help, how it answers, and the exit codes that `docs/command.md` states."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medvit.cli import data, pacs
from medvit.cli.app import app, main
from medvit.cli.talk import Answer, Talk

BUNDLE = "segformer3d_brain"
APPS = {"": app, "data ": data.app, "pacs ": pacs.app}


def verbs() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Name and command of every verb, those of the apps below too."""
    for prefix, one in APPS.items():
        yield from walk(prefix, typer.main.get_command(one))


def walk(prefix: str, command: object) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    below = getattr(command, "commands", {})
    for name, verb in below.items():
        if hasattr(verb, "commands"):
            yield from walk(f"{prefix}{name} ", verb)
        elif f"{prefix}{name} " not in APPS:
            yield f"{prefix}{name}", verb


VERBS = dict(verbs())


def test_all_verbs_are_walked() -> None:
    assert {"run", "cohort", "bench brain", "data check", "pacs listen", "label"} <= VERBS.keys()
    assert len(VERBS) > 20


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_as_people_and_programs_want(verb: str) -> None:
    options = {name for parameter in VERBS[verb].params for name in parameter.opts}
    assert {"--json", "-q", "--quiet", "-v", "--verbose"} <= options
    done = CliRunner().invoke(app, [*verb.split(), "-h"])
    assert done.exit_code == 0 and "Usage" in done.output and "--json" in done.output


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a study, a broken one, a text file and nothing."""
    image = nib.Nifti1Image(np.zeros((8, 9, 10), np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    nib.save(image, tmp_path / "study.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes((tmp_path / "study.nii.gz").read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "cut.dcm").write_bytes(bytes(128) + b"DICM" + bytes([1, 2, 3]))
    return tmp_path


# What is typed, the exit code, and a word of what is said. Upper-case words are paths of `place`.
BAD = [
    ("list --no-such-option", 1, "No such option"),
    ("info no_such_bundle", 1, "there is no bundle"),
    ("check nowhere.nii.gz", 1, "does not exist"),
    ("check empty", 2, ""),
    ("check broken.nii.gz", 3, "broken.nii.gz"),
    ("status empty", 1, "empty"),
    (f"run {BUNDLE} nowhere.nii.gz -o out", 1, "does not exist"),
    (f"run {BUNDLE} study.nii.gz -o file", 1, "is a file"),
    (f"run {BUNDLE} study.nii.gz", 1, "--output"),
    (f"run {BUNDLE} study.nii.gz -o out --age old", 1, "--age"),
    (f"cohort {BUNDLE} nowhere -o out", 1, "does not exist"),
    ("evaluate nowhere study.nii.gz", 1, "nowhere"),
    ("evaluate empty empty", 2, "nothing"),
    ("evaluate study.nii.gz study.nii.gz -o file", 1, "is a file"),
    (f"run {BUNDLE} study.nii.gz -o out --structures ,", 1, "names no structure"),
    (f"run {BUNDLE} study.nii.gz -o out --structures=", 1, "names no structure"),
    (f"run {BUNDLE} study.nii.gz -o out --rtstruct", 1, "without --dicom"),
    (f"cohort {BUNDLE} study.nii.gz -o out --seg-type binary --dicom-anyway", 1, "without --dicom"),
    ("evaluate study.nii.gz study.nii.gz --window 0 1 --labels brain", 1, "a window compares images"),
    ("evaluate study.nii.gz study.nii.gz --window 0 inf", 1, "from a lower to a higher"),
    ("label empty --port 99999999", 1, "--port"),
    ("deidentify notes.txt -o out", 1, "notes.txt"),
    ("convert SegFormer3D notes.txt -o out --labels a", 1, "notes.txt"),
    ("convert NoSuchNetwork notes.txt -o out", 1, "notes.txt"),
    (f"export {BUNDLE} -o out --format pdf", 1, "pdf"),
    ("deidentify nowhere -o out", 1, "nowhere"),
    ("deidentify empty -o out", 1, "empty"),
    ("deidentify empty -o dicom", 1, "is not empty"),
    (f"train {BUNDLE} nowhere.json -o out", 1, "nowhere.json"),
    (f"train {BUNDLE} notes.txt -o out", 1, "notes.txt"),
    (f"pretrain {BUNDLE} nowhere -o out.safetensors", 1, "nowhere"),
    (f"pretrain {BUNDLE} study.nii.gz -o out.pt", 1, ".safetensors"),
    ("bench brain -o file", 1, "is a file"),
    ("label", 1, "--install"),
    ("label nowhere", 1, "nowhere"),
    ("data check no_such_manifest empty", 1, "no_such_manifest"),
    ("data check msd09_spleen nowhere", 1, "nowhere"),
    ("data check msd09_spleen empty", 3, "no-cases"),
    ("pacs echo nonsense", 1, "nonsense"),
    ("pacs echo PACS@127.0.0.1:1", 1, "127.0.0.1:1"),
    ("pacs find PACS@127.0.0.1:1 nonsense", 1, "nonsense"),
    ("pacs find PACS@no-host.invalid:104 PatientID=1", 1, "no host of that name"),
    ("pacs find PACS@127.0.0.1:1 PatientID=1", 1, "127.0.0.1:1"),
    ("pacs move PACS@127.0.0.1:1 PatientID=1 --to X", 1, "127.0.0.1:1"),
    ("pacs pull http://127.0.0.1:1/dicom-web PatientID=1 -o out", 1, "127.0.0.1:1"),
    ("pacs push PACS@127.0.0.1:1 notes.txt", 1, "notes.txt"),
    ("pacs listen -o out", 1, "bundle"),
    (f"pacs listen -o out {BUNDLE} --description ([", 1, "regular expression"),
    ("pacs push PACS@127.0.0.1:1 dicom", 1, "class"),
    (f"pacs listen -o out {BUNDLE} --rules nowhere.json", 1, "nowhere.json"),
]


@pytest.mark.parametrize(("typed", "code", "word"), BAD)
def test_bad_input_has_its_exit_code_and_its_sentence(
    typed: str,
    code: int,
    word: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    for options in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["medvit", *typed.split(), *options])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == code, said
        assert word in said.out + said.err and "Traceback" not in said.err
        # The parser of the command line, which speaks of usage, knows no answers.
        if options and "Usage:" not in said.err:
            assert json.loads(said.out)
    if code != 3:
        assert sorted(place.iterdir()) == before


def test_programs_read_one_document_whatever_else_is_written() -> None:
    program = """
import os, subprocess, sys
from medvit.cli.talk import Answer, Talk
with Talk(as_json=True).during() as say:
    print("a line of Python's")
    subprocess.run([sys.executable, "-c", "print('a line of a child')"])
    os.write(1, b"a line of a library's")
    say(Answer({"a": 1}))
print("after")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    document, _, rest = done.stdout.rpartition("}")
    assert json.loads(document + "}") == {"a": 1} and rest.strip() == "after"
    assert done.stderr.count("a line of") == 3


def test_quiet_says_nothing_but_what_went_wrong(capsys: pytest.CaptureFixture) -> None:
    talk, answer = Talk(quiet=True), Answer({}, "all that was found", 3, "one study is broken")
    with talk.during() as say:
        print("progress")
        say(answer)
    talk.end(answer)
    assert capsys.readouterr() == ("", "medvit: ended with exit code 3; one study is broken\n")
