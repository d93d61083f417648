"""A record stands for its inputs alone; any other is made again."""

from __future__ import annotations

from pathlib import Path

from medvit.bench.cache import is_current, key_of, read_record, write_record


def test_a_record_is_read_under_its_own_key_alone(tmp_path: Path) -> None:
    file, key = tmp_path / "record.json", key_of({"bundle": "a", "weights": [1, 2]})
    assert read_record(file, key) is None and not is_current(file, key)
    write_record(file, key, {"dice": 0.5})
    assert read_record(file, key) == {"key": key, "dice": 0.5} and is_current(file, key)
    assert read_record(file, key_of({"bundle": "b"})) is None


def test_a_key_depends_on_the_content_and_not_on_its_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert len({key_of(made) for made in ({"a": 1}, {"a": 2}, {"a": [1]}, ["a", 1], None)}) == 5


def test_a_broken_record_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    for content in ("", "{", "[]", '"text"', "{}"):
        file.write_text(content)
        assert read_record(file, key_of(1)) is None
