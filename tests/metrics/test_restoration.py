"""Restoration metrics: the authors' numbers, and what a wrong one would give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medvit.metrics import (
    block_biases,
    hfen,
    hu_bias,
    nrmse,
    psnr,
    psnr_y_of_bgr,
    rmse,
    ssim,
    ssim_y_of_bgr,
)
from tests.networks.goldens import FOLDER

CASES = sorted(FOLDER.glob("restoration_metrics*.json"))


def images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.load(path.with_suffix(".npz"))
    return arrays["input:a"], arrays["input:b"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_equals_the_authors_code(path: Path) -> None:
    values = json.loads(path.read_text())["values"]
    restored, reference = images(path)
    assert rmse(restored, reference) == pytest.approx(values["rmse_255"], rel=1e-6)
    for border in (0, 4):
        cut = slice(border, -border or None)
        a, b = restored[cut, cut], reference[cut, cut]
        plain = values[f"y_channel=False,crop_border={border}"]
        luma = values[f"y_channel=True,crop_border={border}"]
        assert psnr(a, b, data_range=255) == pytest.approx(plain["psnr"], rel=1e-6)
        assert ssim(a, b, data_range=255, channel_axis=-1) == pytest.approx(plain["ssim"], rel=1e-6)
        assert psnr_y_of_bgr(restored, reference, crop_border=border) == pytest.approx(luma["psnr"], rel=1e-6)
        assert ssim_y_of_bgr(restored, reference, crop_border=border) == pytest.approx(luma["ssim"], rel=1e-6)


@pytest.mark.parametrize("path", [p for p in CASES if "grey" in p.stem], ids=lambda path: path.stem)
def test_the_luma_of_a_grey_image_flatters(path: Path) -> None:
    values = json.loads(path.read_text())["values"]["grey_as_three_bgr,y_channel=True"]
    a, b = (np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2) for image in images(path))
    assert psnr_y_of_bgr(a, b) == pytest.approx(values["psnr"], rel=1e-6)
    assert ssim_y_of_bgr(a, b) == pytest.approx(values["ssim"], rel=1e-6)
    assert psnr_y_of_bgr(a, b) - psnr(a, b, data_range=255) == pytest.approx(1.3219, abs=1e-4)


def test_integers_do_not_wrap_around() -> None:
    black, white = np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8)
    assert rmse(black, white) == 255
    assert psnr(black, white, data_range=255) == 0
    assert psnr(white, white, data_range=255) == float("inf")
    assert ssim(white, white, data_range=255) == pytest.approx(1)


def test_hu_bias_is_measured_inside_homogeneous_regions() -> None:
    rng = np.random.default_rng(0)
    regions = np.repeat([1, 2, 3, 9], 16)[:, None] * np.ones((1, 64), int)
    regions[0, 0] = 4
    reference = regions * 100.0
    reference[regions == 3] += rng.normal(0, 200, (regions == 3).sum())
    restored = reference + 5.0
    restored[regions == 2] -= 12.0
    restored[15:17] += 1000  # at the border of two regions, where a blur belongs to neither
    assert hu_bias(restored, reference, regions) == pytest.approx({1: 5.0, 2: -7.0, 9: 5.0})
    assert hu_bias(restored, reference, regions, margin=0)[1] > 50
    assert hu_bias(restored, reference, np.arange(64 * 64).reshape(64, 64)) == {}


def test_refusals() -> None:
    image = np.zeros((12, 12))
    with pytest.raises(ValueError, match=r"one shape, not \(12, 12\) and \(12, 11\)"):
        rmse(image, image[:, :11])
    with pytest.raises(ValueError, match="data_range must be positive"):
        psnr(image, image, data_range=0)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(image[:9], image[:9], data_range=1)
    with pytest.raises(ValueError, match="region map must be"):
        hu_bias(image, image, image[:5])
    with pytest.raises(ValueError, match=r"\(H, W, 3\), not \(12, 12, 4\)"):
        psnr_y_of_bgr(np.zeros((12, 12, 4)), np.zeros((12, 12, 4)))


def test_blocks_tell_a_shift_of_tissue_and_leave_out_air_and_edges() -> None:
    random = np.random.default_rng(0)
    reference = np.full((32, 40, 9), -1000.0)
    reference[8:, :16] = 50  # 6 blocks of tissue in the first 8 slices, and 6 with an edge below
    reference[8:16, 8:16] += 400 * (np.arange(8) < 4)[:, None, None]
    restored = reference + random.normal(0, 1, reference.shape)
    restored[8:, :8] += 3
    restored[reference < -500] += 100
    biases = np.sort(block_biases(restored, reference, window=(-160, 240)))
    np.testing.assert_allclose(biases, [0, 0, 3, 3, 3], atol=0.3)
    assert block_biases(restored[..., :2], reference[..., :2], window=(-160, 240)).size == 5
    assert block_biases(restored, reference, window=(1000, 1400)).size == 0
    with pytest.raises(ValueError, match="must be positive"):
        block_biases(restored, reference, window=(240, -160))


def test_relative_errors_by_hand() -> None:
    reference = np.zeros((12, 12))
    reference[2:10, 2:10] = 4.0
    restored = reference.copy()
    restored[2:10, 2:10] = 5.0
    assert nrmse(restored, reference) == pytest.approx(0.25)
    # Half the voxels are air without error, which an error that is not relative would be flattered by.
    assert nrmse(restored, reference, mask=reference > 0) == pytest.approx(0.25)
    assert hfen(restored, reference) == pytest.approx(0.25)  # edges a quarter too strong
    assert hfen(reference + 3, reference) < 0.01  # a shift has no edges
    assert nrmse(reference + 3, reference, mask=reference > 0) == pytest.approx(0.75)


def test_high_frequencies_tell_blur_from_noise_of_the_same_size() -> None:
    rng = np.random.default_rng(0)
    reference = ndimage.gaussian_filter(rng.random((48, 48)), 2)
    blurred = ndimage.gaussian_filter(reference, 1)
    smooth = ndimage.gaussian_filter(rng.standard_normal((48, 48)), 8)
    shaded = reference + smooth * (np.linalg.norm(blurred - reference) / np.linalg.norm(smooth))
    assert nrmse(shaded, reference) == pytest.approx(nrmse(blurred, reference))
    assert hfen(blurred, reference) > 5 * hfen(shaded, reference)


def test_relative_errors_refuse_what_has_no_size() -> None:
    with pytest.raises(ValueError, match="is 0 wherever it counts"):
        nrmse(np.ones((4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="hold a voxel"):
        hfen(np.ones((4, 4)), np.ones((4, 4)), mask=np.zeros((4, 4)))


def test_similarity_of_a_mask_is_that_of_its_pixels_alone() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((40, 40))
    wrong = image.copy()
    wrong[:, 20:] = rng.random((40, 20))
    left = np.zeros((40, 40), bool)
    left[:, :12] = True
    assert ssim(wrong, image, data_range=1, mask=left) == pytest.approx(1)
    assert ssim(wrong, image, data_range=1, mask=~left) < 0.8
    with pytest.raises(ValueError, match="mask"):
        ssim(wrong, image, data_range=1, mask=np.zeros((40, 40), bool))
