"""Digests of inputs: each file is read for them once, and again only when it has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from medvit.runs import done
from medvit.studies import Series, Study
from medvit.studies.files import sha256_of


def test_an_input_is_hashed_once_while_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(done, "sha256_of", lambda path: read.append(path) or sha256_of(path))
    slices = tuple(tmp_path / name for name in ("1.dcm", "2.dcm"))
    for path in slices:
        path.write_bytes(path.name.encode())
    study = Study("a", (Series(slices, "dicom"),))
    first = done.input_sha256(study)
    assert done.input_sha256(study) == first and read == [*slices]
    slices[0].write_bytes(b"other")
    assert done.input_sha256(study) != first and read == [*slices, slices[0]]
    digests = sorted(hashlib.sha256(content).hexdigest() for content in (b"other", b"2.dcm"))
    assert done.input_sha256(study) == [hashlib.sha256("\n".join(digests).encode()).hexdigest()]


def test_a_worker_need_not_read_what_its_run_has_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"voxels")
    study = Study("a", (Series((path,), "dicom"),))
    digests = done.input_sha256(study)
    known = done.known_digests(study)
    monkeypatch.setattr(done, "_digests", done._Digests())  # as in another process
    assert done.known_digests(study) == {}
    read: list[Path] = []
    monkeypatch.setattr(done, "sha256_of", lambda path: read.append(path) or sha256_of(path))
    done.learn_digests(known)
    assert done.input_sha256(study) == digests and not read
    path.write_bytes(b"others")
    done.learn_digests(known)
    assert done.input_sha256(study) != digests and read == [path]


def test_no_more_digests_are_kept_than_agreed(tmp_path: Path) -> None:
    digests = done._Digests(most=2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
        digests.of(path)
    assert list(digests.known(paths)) == paths[1:]
