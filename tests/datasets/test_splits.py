"""Patients are drawn and divided the same way wherever cases are kept apart."""

from __future__ import annotations

import pytest

from medvit.datasets.splits import drawn_patients, patients_of_fold
from medvit.errors import MedvitError

PEOPLE = ["ann", "bob", "ann", "cem", "dee", "eve", "bob"]


def test_a_share_is_at_least_one_and_never_all() -> None:
    assert drawn_patients(PEOPLE, 0.0, 1) == set()
    assert len(drawn_patients(PEOPLE, 0.01, 1)) == 1
    assert len(drawn_patients(PEOPLE, 0.4, 1)) == 2  # of five people, however many studies they have
    assert len(drawn_patients(PEOPLE, 0.99, 1)) == 4
    assert drawn_patients(["ann", "ann"], 0.5, 1) == set()
    assert drawn_patients(PEOPLE, 0.4, 1) == drawn_patients(PEOPLE[::-1], 0.4, 1)
    assert {frozenset(drawn_patients(PEOPLE, 0.4, seed)) for seed in range(9)} != {frozenset({"ann", "bob"})}


def test_folds_hold_everybody_out_once() -> None:
    parts = [patients_of_fold(PEOPLE, 3, fold, 5) for fold in range(3)]
    assert sorted(len(part) for part in parts) == [1, 2, 2]
    assert sorted(person for part in parts for person in part) == sorted(set(PEOPLE))
    for folds, fold in ((1, 0), (3, 3), (6, 0)):
        with pytest.raises(MedvitError, match="folds"):
            patients_of_fold(PEOPLE, folds, fold, 5)
