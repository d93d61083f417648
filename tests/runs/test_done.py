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
