"""The id of a DICOM study: of its instances, or else of its contents, and never of where the files lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from medvit.studies import only_study
from tests.studies.dicom.synthetic import made_up

UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


def written(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True)
    for number, dataset in enumerate(made_up().datasets()):
        for keyword in without:
            del dataset[keyword]
        pydicom.dcmwrite(folder / f"{number:02}.dcm", dataset, enforce_file_format=not without)
    return folder


def given_otherwise(folder: Path) -> Iterator[object]:
    """The same files: their folder, its parent, the files one by one, and in another place by other names."""
    yield from (folder, folder.parent, sorted(folder.iterdir()))
    other = folder.parent.parent / "elsewhere"
    other.mkdir()
    for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copy(path, other / f"x{number}")
    yield other


@pytest.mark.parametrize("without", [(), ("SOPInstanceUID",), UIDS])
def test_one_id_however_the_files_are_given(tmp_path: Path, without: tuple[str, ...]) -> None:
    folder = written(tmp_path / "a/Doe^John", without=without)
    ids = {only_study(given).id for given in given_otherwise(folder)}
    assert len(ids) == 1 and ids.pop().startswith("CT-")


def test_a_single_file_has_one_id_too(tmp_path: Path) -> None:
    folder = written(tmp_path / "a/b")
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    (file,) = folder.iterdir()
    assert len({only_study(given).id for given in (file, folder, folder.parent)}) == 1


def test_other_slices_are_another_study(tmp_path: Path) -> None:
    whole = only_study(written(tmp_path / "a")).id
    sorted((tmp_path / "a").iterdir())[-1].unlink()
    assert only_study(tmp_path / "a").id != whole
