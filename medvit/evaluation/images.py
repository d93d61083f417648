"""The scores of a restored image against its reference: PSNR, SSIM, RMSE and bias, within a window."""

from __future__ import annotations

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
        SSIM is the mean over slices along the third axis; NRMSE and HFEN count the foreground alone, which is
        above a tenth of the window, because air without error would inflate the scores; ``bias`` is the mean
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
    try:
        similarity = np.mean([ssim(a[..., k], b[..., k], data_range=high - low) for k in range(a.shape[2])])
    except ValueError as error:
        raise StudyError("image-too-small", str(error), path=pair.prediction, do="leave it out") from error
    biases = block_biases(restored, reference, window=window)
    # Measured from the bottom of the window, so that HU and magnitudes are treated alike.
    ours, theirs, foreground = a - low, b - low, b > low + _FOREGROUND * (high - low)
    values = {
        "psnr_db": psnr(a, b, data_range=high - low),
        "ssim": float(similarity),
        "rmse": rmse(a, b),
        "nrmse": nrmse(ours, theirs, mask=foreground) if foreground.any() else float("nan"),
        "hfen": hfen(ours, theirs, mask=foreground) if foreground.any() else float("nan"),
        "bias": float(biases.mean()) if biases.size else float("nan"),
        "bias_p95": float(np.quantile(np.abs(biases), 0.95)) if biases.size else float("nan"),
    }
    return StudyScores(pair.study, {IMAGE: "both"}, {IMAGE: values})
