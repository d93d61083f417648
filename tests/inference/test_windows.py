"""Windows: MONAI's places, and images that are read plane by plane."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from medvit.errors import StudyError
from medvit.inference.windows import Volume, pad, plan_windows, window_weights


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [(40, 33, 50), (16, 16, 16), (17, 64, 31)])
def test_places_are_those_of_monai(size: tuple[int, ...], overlap: float) -> None:
    roi = (16, 16, 16)
    plan = plan_windows(size, roi, overlap, axis=0)
    steps = _get_scan_interval(size, roi, 3, (overlap,) * 3)
    expected = {tuple(s.start for s in window) for window in dense_patch_slices(size, roi, steps)}
    found = {(layer, *rest) for layer in plan.layers for _, *rest in plan.in_layer()}
    assert found == expected
    assert len(plan) == len(expected)


def test_a_small_image_is_padded_on_both_sides() -> None:
    plan = plan_windows((5, 40, 16), (16, None, 0), 0.5)
    assert plan.roi_size == (16, 40, 16)
    assert plan.padding == ((5, 6), (0, 0), (0, 0))
    assert plan.padded_size == (16, 40, 16)
    padded = pad(torch.ones(1, 5, 40, 16), plan.padding, "constant", 7.0)
    assert tuple(padded.shape[1:]) == plan.padded_size
    assert padded[0, 4, 0, 0] == padded[0, 10, 0, 0] == 7
    assert padded[0, 5, 0, 0] == padded[0, 9, 0, 0] == 1


def test_the_streaming_axis_keeps_the_accumulator_small() -> None:
    assert plan_windows((200, 100, 50), 40, 0.5).axis == 0
    assert plan_windows((50, 100, 200), 40, 0.5).axis == 2
    assert plan_windows((50, 100, 200), 40, 0.5, axis=-2).axis == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((0, 4), 2, 0.5), "no voxels"),
        (((4, 4), (2, 2, 2), 0.5), "needs 2 values"),
        (((4, 4), 2, 1.0), "overlap"),
        (((4, 4), 2, -0.1), "overlap"),
        (((4, 4), 2, 0.5, 2), "axis 2"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_windows(*arguments)


def test_weights_are_highest_in_the_middle_and_never_zero() -> None:
    weights = window_weights((9, 9, 9))
    assert weights.dtype == torch.float32
    assert weights.argmax() == weights.numel() // 2
    assert weights.min() > 0
    assert window_weights((4, 5), "constant").unique().tolist() == [1]


def test_a_file_is_read_like_a_tensor(tmp_path: Path) -> None:
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    affine = np.diag([2.0, 3, 4, 1])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii")
    volume = Volume.open(tmp_path / "a.nii", prepare=lambda slab: slab / 2)
    assert volume.size == (4, 5, 6)
    assert torch.equal(volume.read(1, 2, 4), torch.from_numpy(voxels[None, :, 2:4] / 2).float())
    part = volume.crop((slice(1, 3), slice(0, 5), slice(2, 6)))
    assert part.size == (2, 5, 4)
    assert part.grid.affine[:3, 3].tolist() == [2, 0, 8]
    assert torch.equal(part.read(0, 0, 1), torch.from_numpy(voxels[None, 1:2, :, 2:6] / 2).float())


def test_an_image_without_an_affine_has_no_grid() -> None:
    with pytest.raises(StudyError, match="no affine"):
        _ = Volume(torch.zeros(1, 2, 2, 2)).grid
