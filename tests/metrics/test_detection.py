"""Detection of lesions: cases that can be counted by hand, and what a wrong rule would give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medvit.metrics.detection import (
    Detections,
    lesion_average_precision,
    lesion_candidates,
    match_candidates,
    patient_auc,
    picai_score,
)


def _boxes(*boxes: tuple[slice, float]) -> np.ndarray:
    image = np.zeros((40, 12, 12), np.float32)
    for where, value in boxes:
        image[where, 3:8, 3:8] = value
    return image


def test_a_candidate_reaches_down_to_a_share_of_its_peak() -> None:
    image = _boxes((slice(5, 10), 0.3), (slice(6, 8), 0.6), (slice(10, 12), 0.2), (slice(20, 24), 0.15))
    found = lesion_candidates(image)
    assert set(np.unique(found)) == {np.float32(0), np.float32(0.15), np.float32(0.6)}
    assert (found[5:10, 4, 4] == np.float32(0.6)).all() and not found[10:20].any()
    assert not lesion_candidates(image, min_probability=0.7).any()
    assert len(np.unique(lesion_candidates(image, most=1))) == 2
    with pytest.raises(ValueError, match="0 to 1"):
        lesion_candidates(2 * image + 1)


def test_a_small_component_is_not_a_candidate_and_the_search_continues_without_it() -> None:
    assert lesion_candidates(_boxes((slice(5, 6), 0.9)), min_voxels=24).any()
    assert not lesion_candidates(_boxes((slice(5, 6), 0.9)), min_voxels=25).any()
    # The small peak sets the threshold of the first search, 0.36, and is still not a candidate.
    beside = _boxes((slice(5, 6), 0.9), (slice(20, 24), 0.4), (slice(24, 28), 0.35))
    found = lesion_candidates(beside, min_voxels=25)
    assert np.unique(found).tolist() == [0, np.float32(0.4)] and np.count_nonzero(found) == 100
    # Nothing is large enough above the first threshold: the next one follows from what lies below it.
    below = _boxes((slice(5, 6), 0.9), (slice(20, 24), 0.3))
    assert np.unique(lesion_candidates(below, min_voxels=25)).tolist() == [0, np.float32(0.3)]


def test_studies_without_a_confident_voxel_are_still_ranked() -> None:
    assert lesion_candidates(_boxes((slice(5, 9), 0.05))).max() == np.float32(0.05)
    assert not lesion_candidates(_boxes((slice(5, 9), 0.009))).any()


def test_a_lesion_has_one_candidate_and_a_candidate_one_lesion() -> None:
    reference = _boxes((slice(2, 8), 1), (slice(20, 30), 1))
    found = _boxes((slice(3, 8), 0.5), (slice(20, 24), 0.9), (slice(26, 30), 0.7), (slice(35, 38), 0.4))
    lenient = match_candidates(found, reference)
    assert sorted(lenient.hits) == pytest.approx([0.5, 0.9]) and lenient.missed == 0
    assert lenient.false == pytest.approx((0.4,)) and lenient.confidence == pytest.approx(0.9)
    strict = match_candidates(found, reference, lenient=False)
    assert sorted(strict.false) == pytest.approx([0.4, 0.7])


def test_the_overlap_decides_what_is_a_hit() -> None:
    reference = _boxes((slice(0, 20), 1))
    found = _boxes((slice(18, 22), 0.8))  # 2 of 22: 0.09
    assert match_candidates(found, reference) == Detections((), (pytest.approx(0.8),), 1, pytest.approx(0.8))
    assert match_candidates(found, reference, min_overlap=0.09).missed == 0
    # One candidate over two lesions is a hit of the one that it covers better.
    both = match_candidates(_boxes((slice(0, 20), 0.8)), _boxes((slice(0, 4), 1), (slice(6, 18), 1)))
    assert len(both.hits) == 1 and both.missed == 1 and not both.false


def test_the_most_hits_come_before_the_largest_overlap() -> None:
    # The first candidate covers the first lesion best, but the second candidate covers that lesion alone.
    reference = np.zeros((30, 8, 8))
    reference[0:10], reference[11:16] = 1, 1
    found = np.zeros_like(reference)
    found[4:16, :4] = 0.9
    found[0:3, 5:] = 0.6
    result = match_candidates(found, reference)
    assert len(result.hits) == 2 and result.missed == 0


def test_average_precision_by_hand() -> None:
    studies = [
        Detections((0.9,), (0.8,), 0, 0.9),
        Detections((0.7,), (), 1, 0.7),
        Detections((), (0.3,), 0, 0.3),
    ]
    # Recall 1/3 at precision 1, 2/3 at precision 2/3; the third lesion is never found.
    assert lesion_average_precision(studies) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    tied = [Detections((0.5,), (0.5,), 0, 0.5)]
    assert lesion_average_precision(tied) == pytest.approx(0.5)
    assert math.isnan(lesion_average_precision([Detections((), (0.2,), 0, 0.2)]))
    assert lesion_average_precision([Detections((), (), 2, 0.0)]) == 0


def test_auc_by_hand() -> None:
    def study(positive: bool, confidence: float) -> Detections:
        return Detections((), (), int(positive), confidence)

    studies = [study(True, 0.9), study(True, 0.4), study(False, 0.4), study(False, 0.1)]
    assert patient_auc(studies) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert math.isnan(patient_auc([study(True, 0.2)]))
    assert picai_score([Detections((0.9,), (), 0, 0.9), study(False, 0.1)]) == 1


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        match_candidates(np.zeros((3, 3, 3)), np.zeros((3, 3)))
