"""Zips are unpacked only where it is safe, and a DICOMDIR leads to its files."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest
from pydicom.fileset import FileSet

from medvit.errors import StudyError
from medvit.studies.dicom import archive, files_of_dicomdir, read, scan, unzip
from tests.studies.dicom.hazards_of_files import HAZARDS
from tests.studies.dicom.synthetic import assert_right, made_up


def packed(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def test_a_zip_of_a_series_reads_as_the_series(tmp_path: Path) -> None:
    truth = made_up()
    HAZARDS["38_nested_dirs"].write(truth, tmp_path / "series")
    sources = [p for p in (tmp_path / "series").rglob("*") if p.is_file()]
    members = [(str(p.relative_to(tmp_path)), p.read_bytes()) for p in sources]
    files = unzip(packed(tmp_path / "series.zip", *members), tmp_path / "out")
    assert len(files) == len(sources)
    image, grid, _ = read(scan(files).series[0])
    assert_right(image, grid, truth)


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "code"),
    [
        (("../outside", b"x"), "zip-unsafe-path"),
        (("a/../../outside", b"x"), "zip-unsafe-path"),
        (("/outside", b"x"), "zip-unsafe-path"),
        (("a\\..\\..\\outside", b"x"), "zip-unsafe-path"),
        (("C:/outside", b"x"), "zip-unsafe-path"),
        ((link(), b"/etc"), "zip-unsafe-path"),
        (("bomb", bytes(80 * 2**20)), "zip-too-large"),
    ],
)
def test_an_unsafe_zip_is_refused_before_anything_is_written(
    tmp_path: Path, member: tuple[str, bytes], code: str
) -> None:
    path = packed(tmp_path / "evil.zip", ("good", b"x"), member)
    with pytest.raises(StudyError) as refusal:
        unzip(path, tmp_path / "out")
    assert refusal.value.code == code
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.zip"]


def test_too_many_members_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "many.zip", ("a", b"x" * 1000), ("b", b"y"))
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + b"\xff" * 30 + whole[50:])
    with pytest.raises(StudyError, match="zip-damaged"):
        unzip(path, tmp_path / "out")
    path.write_bytes(whole)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 1)
    with pytest.raises(StudyError, match="zip-too-large"):
        unzip(path, tmp_path / "out")


def test_many_members_that_unpack_too_far_together(tmp_path: Path) -> None:
    path = packed(tmp_path / "bomb.zip", *((str(k), bytes(2**24)) for k in range(5)))
    with pytest.raises(StudyError, match="unpacks to more than images would"):
        unzip(path, tmp_path / "out")
    path = packed(tmp_path / "large.zip", ("a", b"x" * 1000))
    with pytest.raises(StudyError, match="zip-too-large"):
        unzip(path, tmp_path / "out", limit=999)


def test_a_dicomdir_stands_for_its_files(tmp_path: Path) -> None:
    truth = made_up()
    index = FileSet()
    for ds in truth.datasets():
        ds.StudyTime, ds.StudyID, ds.SeriesNumber = "120000", "1", 1
        index.add(ds)
    index.write(tmp_path)
    files = files_of_dicomdir(tmp_path / "DICOMDIR")
    assert len(files) == len(truth.stored)
    found = scan([tmp_path / "DICOMDIR", *files])
    assert found.left_out == []
    image, grid, _ = read(found.series[0])
    assert_right(image, grid, truth)
    files[0].unlink()
    (series,) = scan([tmp_path / "DICOMDIR"]).series
    with pytest.raises(StudyError) as refusal:
        read(series)
    assert refusal.value.path == files[0]
