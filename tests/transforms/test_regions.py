"""Regions from superpixels follow the parts of an image, and given ones are checked."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.transforms.regions import felzenszwalb_regions, given_regions, grey_levels, slic_regions
from tests.transforms.phantoms import body


def test_felzenszwalb_finds_the_parts_in_any_unit() -> None:
    image = body()
    regions = felzenszwalb_regions(image, sigma=0.5)
    assert regions[0, 0] != regions[12, 10] != regions[30, 20] != regions[0, 0]
    assert regions.dtype == np.int32 and regions.min() == 1
    np.testing.assert_array_equal(felzenszwalb_regions(image / 1000 + 7, sigma=0.5), regions)


def test_felzenszwalb_neither_collapses_nor_crumbles() -> None:
    image = body()
    assert felzenszwalb_regions(image, scale=1e5).max() > 1
    noise = np.random.default_rng(0).random((1, 80, 80))
    crumbled = felzenszwalb_regions(noise, scale=0.1, sigma=0, min_size=2)
    assert crumbled.max() > 200
    assert felzenszwalb_regions(noise, scale=0.1, sigma=0, min_size=2, max_regions=50).max() <= 50
    assert (felzenszwalb_regions(np.ones((1, 32, 32))) == 1).all()


def test_slic_gives_about_as_many_regions_as_asked() -> None:
    assert 8 <= slic_regions(body(), n_segments=16).max() <= 24
    assert slic_regions(np.repeat(body(), 3, axis=0)).shape == (64, 48)


def test_grey_levels_by_hand() -> None:
    image = np.arange(1000, dtype=np.float32).reshape(1, 20, 50)
    image[0, 0, 0], image[0, -1, -1] = -1e6, 1e6  # metal
    grey = grey_levels(image)
    assert grey.shape == (20, 50, 1) and grey.dtype == np.float32
    # 0.5 and 99.5 % of the ranks 0 to 999 are 4.995 and 994.005.
    assert grey[10, 0, 0] == pytest.approx((500 - 4.995) / (994.005 - 4.995), rel=1e-5)
    assert (grey.min(), grey.max()) == (0, 1)
    assert not grey_levels(np.full((2, 3, 4), 7)).any()


def test_a_given_map_is_checked() -> None:
    labels = np.arange(64 * 48, dtype=np.float64).reshape(1, 64, 48) // 100
    found = given_regions(labels, (64, 48))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels[0])
    with pytest.raises(ValueError, match=r"the region map is \(48, 64\), its image \(64, 48\)"):
        given_regions(labels.reshape(1, 48, 64), (64, 48))
    for wrong in (labels + 0.5, np.full_like(labels, np.nan), labels + 2.0**40):
        with pytest.raises(ValueError, match="not whole 32-bit labels"):
            given_regions(wrong, (64, 48))


def test_images_that_have_no_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        slic_regions(np.full((1, 16, 16), np.nan))
    with pytest.raises(ValueError, match=r"\(C, H, W\), not \(8, 8\)"):
        grey_levels(np.zeros((8, 8)))
    with pytest.raises(ValueError, match="max_regions must be positive"):
        felzenszwalb_regions(body(), max_regions=0)
