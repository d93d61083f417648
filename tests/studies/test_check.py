"""Preflight from headers alone: facts and problems of each study, and a word on all that was given."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.studies import check_studies
from medvit.studies.check import Preflight, check_found, check_study
from medvit.studies.found import Found, LeftOut, Refused
from medvit.studies.study import Series, Study
from tests.studies.nifti_cases import VOXELS, put, sound


def test_preflight_says_what_it_is_and_what_is_wrong(tmp_path: Path) -> None:
    put(tmp_path, "x_0000.nii")
    (tmp_path / "x_0001.nii").write_bytes(sound(VOXELS[:, :, :9]))
    (tmp_path / "y_0000.nii").write_bytes(b"")
    put(tmp_path, "y_0001.nii")
    first, second = check_studies(tmp_path, channels=2)
    assert first.orientation == "LAS" and first.shape == VOXELS.shape and first.channels == 2
    np.testing.assert_allclose(first.spacing, (1.5, 1.25, 2), atol=1e-6)
    assert [code for code, _ in first.problems] == ["channels-grid"]
    assert "lies on another grid" in str(first) and json.dumps(first.as_dict())
    assert [code for code, _ in second.problems] == ["nifti-truncated"] and not second.ok


def test_preflight_says_something_of_everything_that_was_given(tmp_path: Path) -> None:
    put(tmp_path, "a/scan.nii", "a/scan_seg.nii")
    (tmp_path / "a/notes.txt").write_text("nothing")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    given = [tmp_path / name for name in ("a", "a/scan.nii", "empty", "more.zip", "missing.nii")]
    checked = check_studies(given)
    assert [(one.id, one.ok) for one in checked] == [("a_scan", True), ("missing", False)] and not checked.ok
    assert {(one.path.relative_to(tmp_path).as_posix(), one.why) for one in checked.left_out} == {
        ("a/scan.nii", "was given before"),
        ("a/scan_seg.nii", "is named as a label map"),
        ("a/notes.txt", "is not an image"),
        ("empty", "is a folder without files"),
        ("more.zip/readme.txt", "is not an image"),
    }
    assert f"left out: {tmp_path}/empty: is a folder without files" in str(checked)
    assert json.loads(json.dumps(checked.as_dict()))["left_out"][0]["why"]


def test_facts_of_dicom_come_from_its_scan() -> None:
    facts = {
        "shape": (256, 200, 40), "spacing": (1.0, 1.0, 3.0), "plane": "axial", "tilted": True,
        "problem": "a.dcm: lacks a slice", "problem_code": "dicom-missing-slices", "notes": ("One note.",),
    }  # fmt: skip
    seen = check_study(Study("ct", (Series((Path("a.dcm"),), "dicom", facts),), notes=("First.",)))
    assert [code for code, _ in seen.problems] == ["dicom-missing-slices", "dicom-gantry-tilt"]
    assert seen.notes == ("First.", "One note.") and not seen.ok
    assert str(seen).splitlines() == [
        "ct: dicom, 256 x 200 x 40 voxels of 1 x 1 x 3 mm, axial",
        "  refused: a.dcm: lacks a slice",
        "  refused: a.dcm: the slices were acquired at a tilt, and are read only if resampling is allowed",
        "  note: First.",
        "  note: One note.",
    ]


def test_a_further_look_adds_problems_and_notes_of_sound_studies_only(tmp_path: Path) -> None:
    good, bad, broken = put(tmp_path, "good.nii", "bad.nii", "broken.nii")
    broken.write_bytes(b"")
    studies = tuple(Study(path.stem, (Series((path,), "nifti"),)) for path in (good, bad, broken))
    looked: list[str] = []

    def look(study: Study) -> Study:
        looked.append(study.id)
        if study.id == "bad":
            raise StudyError("scope", "is a hand", path=study.path, do="give a head")
        return replace(study, notes=("Seen.", "Seen."))

    refused = Refused("lost", StudyError("channels-missing", "lacks t2", path=tmp_path, do="add it"))
    checked = check_found(Found(studies, (LeftOut(tmp_path, "is a folder"),), (refused,)), look)
    assert looked == ["good", "bad"]
    assert [(one.id, one.ok, [code for code, _ in one.problems]) for one in checked] == [
        ("good", True, []), ("bad", False, ["scope"]), ("broken", False, ["nifti-truncated"]),
        ("lost", False, ["channels-missing"]),
    ]  # fmt: skip
    assert checked.studies[0].notes == ("Seen.",)
    assert len(checked) == 4 and not checked.ok
    assert str(checked).endswith(f"left out: {tmp_path}: is a folder")
    assert not check_found(Found()).ok  # nothing was found


def test_what_cannot_be_read_says_so_in_words_and_json() -> None:
    seen = Preflight("x", None, problems=(("unreadable", "x.nii: cannot be opened"),))
    assert str(seen) == "x: not readable\n  refused: x.nii: cannot be opened"
    said = seen.as_dict()
    assert (said["path"], said["ok"], said["problems"]) == (
        "", False, [{"code": "unreadable", "what": "x.nii: cannot be opened"}]
    )  # fmt: skip
