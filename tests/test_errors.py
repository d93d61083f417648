"""Errors: what reaches another process."""

from __future__ import annotations

import pickle

import pytest

from medvit.errors import MedvitError, MissingExtraError, StudyError, WeightsError
from medvit.label.errors import RequestError
from medvit.reports.earlier import NotAligned

ERRORS = [
    MedvitError("no such bundle"),
    StudyError("nifti-truncated", "ends early", path="scan.nii.gz", do="copy it again", tag="dim"),
    WeightsError("an entry is missing"),
    MissingExtraError("--backend openvino", "openvino"),
    RequestError("there is no such image", 404),
    NotAligned("other", "the earlier study shows something else"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_trip_between_processes(error: MedvitError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error) and vars(back) == vars(error)


def test_every_error_with_a_constructor_of_its_own_is_tried() -> None:
    pending, own = [MedvitError], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if "__init__" in vars(kind):
            own.add(kind)
    assert own <= {type(error) for error in ERRORS}
