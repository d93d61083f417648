"""Done marks: read only if whole, and voided without forgetting what the results were made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.studies.done_mark import DONE, read_mark, void_mark

MARK = {"made_from": {"settings": "a"}, "outputs": {"labels.nii.gz": "ab"}}


def test_a_mark_comes_back(tmp_path: Path) -> None:
    (tmp_path / DONE).write_text(json.dumps(MARK))
    assert read_mark(tmp_path) == MARK


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"made_from": {}}', '{"made_from": 1, "outputs": {}}']
)
def test_a_mark_that_is_not_whole_does_not_count(content: str, tmp_path: Path) -> None:
    assert read_mark(tmp_path) is None
    (tmp_path / DONE).write_text(content)
    assert read_mark(tmp_path) is None
    void_mark(tmp_path)
    assert (tmp_path / DONE).read_text() == content


def test_a_voided_mark_keeps_its_origin(tmp_path: Path) -> None:
    (tmp_path / DONE).write_text(json.dumps(MARK))
    void_mark(tmp_path)
    assert read_mark(tmp_path) == MARK | {"void": True}
