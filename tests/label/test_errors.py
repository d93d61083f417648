"""Requests that cannot be answered: their status, and names that lead nowhere else."""

from __future__ import annotations

import pytest

from medvit.label.errors import RequestError, file_name, first_of, not_found


def test_an_unknown_name_is_answered_with_those_that_exist() -> None:
    error = not_found("image", "x", [f"case_{n:02d}" for n in range(25)])
    assert error.status == 404 and str(error).startswith("there is no image 'x'; known are: case_00, case_01")
    assert "case_19, ..." in str(error) and "case_20" not in str(error)
    assert str(not_found("model", "x", [])).endswith("known are: none")
    assert RequestError("Wrong.").status == 422


@pytest.mark.parametrize("name", ["case_1", "Fall 7", "ü", "a.nii.gz", "x" * 200])
def test_names_of_files_are_taken(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a\\b", "a\nb", "\0", "x" * 201, "ü" * 101])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="name"):
        file_name(name)


def test_the_first_of_a_list_of_choices_is_meant() -> None:
    assert [first_of(v) for v in (["b", "a"], "c", [], None, 0)] == ["b", "c", "", "", ""]
