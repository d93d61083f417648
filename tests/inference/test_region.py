"""Find, then look: the box holds what there is, and labels are those of looking everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.errors import StudyError
from medvit.inference import CoarseRegion, ForegroundRegion, RestorationInferer, StreamingWindowInferer
from medvit.studies.study import Grid
from tests.inference.cases import OBLIQUE, affine, rotation

ROI = (16, 16, 16)


def bright(windows: Tensor) -> Tensor:
    """Logits of background and of what is brighter than a half."""
    return 20 * torch.cat([0.5 - windows, windows - 0.5], 1)


def head(size: tuple[int, int, int] = (70, 64, 58), directions: np.ndarray | None = None) -> MetaTensor:
    """A bright body of 20 voxels in the corner of a wide dark field, and a speck far away."""
    image = torch.zeros(1, *size)
    image[:, 40:60, 35:55, 30:50] = 1
    image[:, 3:5, 3:5, 3:5] = 1
    grid = affine(np.eye(3) if directions is None else directions, (1.0, 1.1, 0.9))
    return MetaTensor(image, affine=torch.from_numpy(grid))


@pytest.mark.parametrize("directions", [np.eye(3), np.diag([-1.0, 1, 1]), rotation(20, 1)])
@pytest.mark.parametrize("rule", [CoarseRegion(4, 5, 1), ForegroundRegion(0.2, 4, 5, 1)])
def test_labels_in_the_box_are_those_of_looking_everywhere(rule, directions: np.ndarray) -> None:
    image = head(directions=directions)
    whole, part = StreamingWindowInferer(ROI), StreamingWindowInferer(ROI, region=rule)
    expected = whole.segment(image, bright)
    expected[:10] = 0
    assert np.array_equal(part.segment(image, bright), expected)
    assert part.report.windows < whole.report.windows / 2
    for (start, stop), (first, last) in zip(part.report.region, ((40, 60), (35, 55), (30, 50)), strict=True):
        assert first - 14 < start <= first - 4
        assert last + 4 <= stop < last + 14


def test_goes_to_the_grid_of_the_study() -> None:
    image, turned = head(), affine(OBLIQUE, (0.9, 1.0, 2.2))
    turned[:3, 3] += 30
    target = Grid((50, 50, 20), turned)
    rule = CoarseRegion(4, 5, 1)
    whole = StreamingWindowInferer(ROI).segment(image, bright, target)
    part = StreamingWindowInferer(ROI, region=rule).segment(image, bright, target)
    assert whole.any()
    whole[part == 0] = 0
    assert np.array_equal(part, whole)
    assert part.sum() > 100


def test_a_target_beside_the_region_is_background_and_one_beside_the_image_refused() -> None:
    inferer = StreamingWindowInferer(ROI, region=CoarseRegion(4, 5, 1))
    assert not inferer.segment(head(), bright, Grid((12, 12, 12), affine(np.eye(3), (1, 1, 1)))).any()
    elsewhere = affine(np.eye(3), (1, 1, 1))
    elsewhere[:3, 3] -= 100
    with pytest.raises(StudyError, match="same study"):
        inferer.segment(head(), bright, Grid((12, 12, 12), elsewhere))


def test_what_was_not_looked_at_is_certain_background() -> None:
    inferer = StreamingWindowInferer(ROI, region=CoarseRegion(4, 5, 1), maps=("entropy", "probability:0"))
    found = inferer.infer(head(), bright)
    assert found.labels[4, 4, 4] == 0
    assert found.maps["entropy"][4, 4, 4] < 1e-6
    assert found.maps["probability:0"][4, 4, 4] > 0.999


def test_windows_of_the_box_without_anything_are_left_out() -> None:
    """Two bodies in opposite corners: their box is the whole field, most of it empty."""
    image = torch.zeros(1, 80, 80, 80)
    image[:, :20, :20, :20] = 1
    image[:, 60:, 60:, 60:] = 1
    image = MetaTensor(image, affine=torch.eye(4))
    inferer = StreamingWindowInferer(ROI, region=CoarseRegion(4, 4, 1))
    assert np.array_equal(inferer.segment(image, bright), image[0].numpy())
    assert inferer.report.skipped > inferer.report.windows / 2


def levels(windows: Tensor) -> Tensor:
    """Logits of background, of what is brighter than 0.2, and of what is brighter than about 0.5."""
    return 20 * torch.cat([0.2 - windows, (windows - 0.2).clamp(max=0.4), 2 * windows - 1], 1)


def with_core() -> MetaTensor:
    image = head()
    image[:, 45:50, 40:45, 35:40] = 2
    return image


def test_another_network_and_its_classes_make_the_region() -> None:
    image = MetaTensor(0.4 * with_core().as_tensor(), affine=head().affine)
    rule = CoarseRegion(2, 2, 0.01, network=levels, classes=[2])
    inferer = StreamingWindowInferer(ROI, region=rule)
    assert inferer.segment(image, bright).sum() == 125
    assert len(inferer.report.region) == 3
    assert all(4 < stop - start < 16 for start, stop in inferer.report.region)


@pytest.mark.parametrize("target", [None, Grid((50, 50, 40), affine(OBLIQUE, (1.2, 1.3, 1.9)))])
def test_a_region_that_cuts_through_labels_is_not_believed(target: Grid | None) -> None:
    image = MetaTensor(0.6 * with_core().as_tensor(), affine=head().affine)
    rule = CoarseRegion(2, 2, 0.01, network=levels, classes=[2])
    inferer = StreamingWindowInferer(ROI, region=rule)
    labels = inferer.segment(image, bright, target)
    assert np.array_equal(labels, StreamingWindowInferer(ROI).segment(image, bright, target))
    assert labels.any()
    assert inferer.report.region == []
    assert "reached the edge of the region" in inferer.report.fallbacks[0]


def test_nothing_found_means_looking_everywhere_and_saying_so() -> None:
    image = head()
    inferer = StreamingWindowInferer(ROI, region=CoarseRegion(4, 5, least_ml=100))
    assert np.array_equal(inferer.segment(image, bright), image[0].numpy())
    assert inferer.report.region == []
    assert "less than 100 ml" in inferer.report.fallbacks[0]


def test_refuses_what_it_cannot_place() -> None:
    with pytest.raises(StudyError, match="affine"):
        StreamingWindowInferer(ROI, region=CoarseRegion())(torch.zeros(1, 1, 20, 20, 20), bright)
    with pytest.raises(ValueError, match="no background"):
        RestorationInferer(ROI, region=CoarseRegion())
    with pytest.raises(ValueError, match="spacing"):
        ForegroundRegion(0.1, spacing=0)


def test_the_coarse_pass_asks_the_network_that_looks() -> None:
    sizes = []

    def network(windows: Tensor) -> Tensor:
        sizes.append(tuple(windows.shape[2:]))
        return bright(windows)

    StreamingWindowInferer(ROI, region=CoarseRegion(4, 5, 1, divisor=8)).segment(head(), network)
    assert sizes[0] == (24, 24, 16)
    assert set(sizes[1:]) == {ROI}
