"""Content of a report's interactive viewer: small enough volumes, colours, and NiiVue itself."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from medvit.reports.content import Content
from medvit.reports.display import MARGIN_MM
from medvit.reports.report import StudyReport

# Voxels of the embedded volumes; a 1 mm brain is shown at about 1.5 mm.
MAX_VOXELS = 1.4e6


def viewer_data(content: Content) -> dict[str, Any]:
    """All data that the page's script reads, as JSON types.

    Returns
    -------
    dict
        ``image`` and ``labels``: NIfTI files, gzip and base64; ``window``: lowest and highest intensity
        shown; ``structures``: value, colour and name of each that was found; ``colors``: the whole table.
    """
    report = content.report
    labels, affine = _resampled(report, report.label_map, order=0)
    image = np.zeros(labels.shape, np.float32)
    if report.image is not None:
        image = _resampled(report, report.image, order=1)[0]
    return {
        "image": _nifti(*_to_bytes(image, report), affine),
        "labels": _nifti(labels.astype(np.uint8 if len(report.table) < 256 else np.uint16), 1.0, 0.0, affine),
        "window": list(report.display.window),
        "structures": [
            {
                "value": m.structure.value,
                "color": list(m.structure.color),
                "name": content.words.structure(m.structure),
            }
            for m in report.measurements.present
        ],
        "colors": [[0, 0, 0], *(list(s.color) for s in report.table)],
    }


@cache
def niivue_code() -> str:
    """NiiVue's script (BSD-2-Clause; its licence lies beside it), gzip and base64."""
    code = (files("medvit.reports") / "assets" / "niivue.umd.js").read_bytes()
    return base64.b64encode(gzip.compress(code, 9, mtime=0)).decode()


def _resampled(report: StudyReport, volume: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The labelled part of a volume with a margin, at even spacing, within `MAX_VOXELS`; and its affine."""
    spacing = np.array(report.grid.spacing)
    found = ndimage.find_objects((report.label_map > 0).view(np.uint8))
    shape = np.array(volume.shape)
    margin = np.round(MARGIN_MM / spacing).astype(int)
    start = np.maximum(0, np.array([s.start for s in found[0]]) - margin) if found else np.zeros(3, int)
    stop = np.minimum(shape, np.array([s.stop for s in found[0]]) + margin) if found else shape
    extent = (stop - start) * spacing
    even = max(float(spacing.min()), float((np.prod(extent) / MAX_VOXELS) ** (1 / 3)))
    # Thick slices keep their thickness: interpolating them would only cost space.
    step = np.maximum(1.0, even / spacing)
    size = np.maximum(1, np.floor((stop - start - 1) / step) + 1).astype(int)
    part = np.nan_to_num(volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
    if np.any(step > 1.0):
        part = ndimage.affine_transform(part, step, output_shape=tuple(size), order=order, mode="nearest")
    affine = report.grid.affine @ np.diag([*step, 1.0])
    affine[:3, 3] = report.grid.affine[:3, :3] @ start + report.grid.affine[:3, 3]
    return part, affine


def _to_bytes(image: np.ndarray, report: StudyReport) -> tuple[np.ndarray, float, float]:
    """Intensities as 0..255 with slope and intercept; the window and as much around it can be told apart."""
    low, high = report.display.window
    low, high = low - 0.25 * (high - low), high + 0.5 * (high - low)
    slope = (high - low) / 255
    return np.clip((image - low) / slope + 0.5, 0, 255).astype(np.uint8), slope, low


def _nifti(voxels: np.ndarray, slope: float, intercept: float, affine: np.ndarray) -> str:
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, intercept, 352
    raw = header.binaryblock + b"\0" * 4 + voxels.tobytes("F")
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()
