"""The plan of a run: what is done, what must not be touched, what is left, and which ids are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from medvit.errors import MedvitError, StudyError
from medvit.runs import RunPlan, study_folder
from medvit.runs.done import input_sha256
from medvit.runs.plan import OTHER_RESULTS, refuse_reserved_ids
from medvit.runs.progress import RunProgress
from medvit.studies import Found, Study
from medvit.studies.done_mark import read_mark
from medvit.studies.found import Refused
from tests.runs.standin import make_studies

MADE_BY = {"bundle": "brain 1.0", "weights_sha256": "w"}


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Study, ...]:
    return make_studies(tmp_path / "in", {name: f"ok 0 {name}" for name in "abc"}).studies


def plan(tmp_path: Path, studies: tuple[Study, ...], made_by: dict = MADE_BY, **options: bool) -> RunPlan:
    with (tmp_path / "said.txt").open("w") as file:
        progress = RunProgress(Console(file=file), len(studies))
        return RunPlan.of(tmp_path / "out", made_by, studies, progress, **options)


def do(tmp_path: Path, study: Study) -> Path:
    made_from = MADE_BY | {"inputs": input_sha256(study)}
    with study_folder(tmp_path / "out", study.id, made_from) as folder:
        (folder / "labels.bin").write_text(study.id)
    return tmp_path / "out" / study.id


def ids(studies: list[Study]) -> str:
    return "".join(study.id for study in studies)


def test_done_studies_are_kept_and_damaged_ones_redone(tmp_path: Path, studies: tuple[Study, ...]) -> None:
    do(tmp_path, studies[0])
    (do(tmp_path, studies[1]) / "labels.bin").write_text("damaged")
    made = plan(tmp_path, studies)
    assert (ids(made.kept), ids(made.to_do), made.refused) == ("a", "bc", [])
    assert made.redone == {"b": "labels.bin is damaged or missing"}
    assert "Resuming: 1 done, 2 to do." in (tmp_path / "said.txt").read_text()


def test_without_resuming_a_done_study_is_void(tmp_path: Path, studies: tuple[Study, ...]) -> None:
    folder = do(tmp_path, studies[0])
    assert ids(plan(tmp_path, studies, resume=False).to_do) == "abc"
    mark = read_mark(folder)
    assert mark is not None and mark["void"]


def test_results_of_others_stay_unless_they_may_be_replaced(
    tmp_path: Path, studies: tuple[Study, ...]
) -> None:
    do(tmp_path, studies[0])
    studies[0].path.write_text("ok 0 another input")
    (tmp_path / "out" / "b").mkdir()
    (tmp_path / "out" / "b" / "thesis.txt").touch()
    made = plan(tmp_path, studies)
    assert ids(made.to_do) == "c" and [o.code for o in made.refused] == [OTHER_RESULTS] * 2
    assert "another input of the same name" in made.refused[0].error
    assert "files that no run has made" in made.refused[1].error
    assert ids(plan(tmp_path, studies, overwrite=True).to_do) == "abc"


def test_another_bundle_is_refused_and_a_newer_version_is_not(
    tmp_path: Path, studies: tuple[Study, ...]
) -> None:
    do(tmp_path, studies[0])
    assert plan(tmp_path, studies[:1], MADE_BY | {"bundle": "heart 1.0"}).refused
    newer = plan(tmp_path, studies[:1], MADE_BY | {"bundle": "brain 1.1"})
    assert ids(newer.to_do) == "a" and "the bundle or its settings changed" in newer.redone["a"]


@pytest.mark.parametrize("taken", ["run.json", "Cohort.csv", "cohort", ".cohort", ".partial-a"])
def test_ids_of_the_record_are_reserved(taken: str) -> None:
    with pytest.raises(MedvitError, match="is reserved for the record"):
        refuse_reserved_ids(Found((), (), (Refused(taken, StudyError("x", "is broken")),)))
