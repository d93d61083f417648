"""The scores of a restored image against its reference: PSNR, SSIM, RMSE and bias, within a window."""

from __future__ import annotations

from math import nan

import numpy as np

from medvit.errors import StudyError
from medvit.evaluation.measure import StudyScores
from medvit.evaluation.pairing import Pair
from medvit.evaluation.sides import check_grids
from medvit.metrics import block_biases, hfen, nrmse, psnr, rmse, ssim
from medvit.studies.formats import read_voxels, series_at
from medvit.studies.grids import place

IMAGE = "image"
_FOREGROUND = 0.1  # share of the window above its lowest value


def measure_images(pair: Pair, window: tuple[float, float]) -> StudyScores:
    """The scores of one study.

    Parameters
    ----------
    window
        Lowest and highest value that count, such as (-160, 240) HU. For PSNR, SSIM and RMSE both images are
        cut off there, as published tables of CT are made; bias is of the values as they are.

    Returns
    -------
    StudyScores
        SSIM is the mean over slices along the third axis; NRMSE, HFEN and the scores that are named so count
        the foreground alone, which is above a tenth of the window, because air without error would inflate
        them; ``bias`` is the mean
        over homogeneous blocks, and ``bias_p95`` what 95 % of these stay below.

    Raises
    ------
    StudyError
        If an image cannot be read, is smaller than the window of SSIM, or the two lie on different grids.
    """
    restored, own, _ = read_voxels(series_at(pair.prediction))
    reference, grid, _ = read_voxels(series_at(pair.reference))
    check_grids(pair.prediction, own, grid)
    placed = place(restored, own, grid)
    assert placed is not None, "the voxels are the same"
    restored = placed
    low, high = window
    a, b = restored.clip(low, high), reference.clip(low, high)
    foreground = b > low + _FOREGROUND * (high - low)
    try:
        similarity, inside = _similarities(a, b, foreground, high - low)
    except ValueError as error:
        raise StudyError("image-too-small", str(error), path=pair.prediction, do="leave it out") from error
    biases = block_biases(restored, reference, window=window)
    # Measured from the bottom of the window, so that HU and magnitudes are treated alike.
    ours, theirs = a - low, b - low
    known = foreground.any()
    values = {
        "psnr_db": psnr(a, b, data_range=high - low),
        "ssim": similarity,
        "foreground_psnr_db": psnr(a[foreground], b[foreground], data_range=high - low) if known else nan,
        "foreground_ssim": inside,
        "rmse": rmse(a, b),
        "nrmse": nrmse(ours, theirs, mask=foreground) if known else nan,
        "hfen": hfen(ours, theirs, mask=foreground) if known else nan,
        "bias": float(biases.mean()) if biases.size else nan,
        "bias_p95": float(np.quantile(np.abs(biases), 0.95)) if biases.size else nan,
    }
    return StudyScores(pair.study, {IMAGE: "both"}, {IMAGE: values})


def _similarities(
    restored: np.ndarray, reference: np.ndarray, foreground: np.ndarray, span: float
) -> tuple[float, float]:
    """SSIM over all pixels and over the foreground, slice by slice along the third axis."""
    whole, inside, counts = [], [], []
    for k in range(restored.shape[2]):
        a, b, mask = restored[..., k], reference[..., k], foreground[..., k]
        whole.append(ssim(a, b, data_range=span))
        if mask.any():
            inside.append(ssim(a, b, data_range=span, mask=mask))
            counts.append(np.count_nonzero(mask))
    return float(np.mean(whole)), float(np.average(inside, weights=counts)) if counts else nan
