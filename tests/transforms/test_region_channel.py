"""Regions as a channel: of each axial slice by itself, however the file is stored."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import StudyError
from medvit.transforms import RegionChanneld, prepare_axial_slices
from medvit.transforms.regions import felzenszwalb_regions


def patches(depth: int = 3) -> MetaTensor:
    """(1, 40, 48, depth): four squares that differ from slice to slice, with some noise."""
    rng = np.random.default_rng(0)
    coarse = np.stack([rng.permutation([-100, 0, 100, 200]) for _ in range(depth)], -1).reshape(2, 2, depth)
    values = np.kron(coarse, np.ones((20, 24, 1))) + rng.normal(0, 3, (40, 48, depth))
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None])


def test_each_slice_has_its_own_regions() -> None:
    image = patches()
    stacked = RegionChanneld("image", (-160, 240))({"image": image})["image"]
    assert stacked.shape == (2, 40, 48, 3) and torch.equal(stacked[0], image[0])
    for number in range(3):
        expected = felzenszwalb_regions(image[:, :, :, number].as_tensor().clamp(-160, 240))
        assert np.array_equal(stacked[1, :, :, number], expected)
        corners = stacked[1, [8, 8, 32, 32], [8, 40, 8, 40], number]
        assert len(torch.unique(corners)) == 4
    with pytest.raises(ValueError, match="1, X, Y"):
        RegionChanneld("image", (0, 1))({"image": torch.zeros(2, 18, 18)})


def test_a_lone_coronal_slice_is_refused() -> None:
    with pytest.raises(StudyError, match="too narrow"):
        RegionChanneld("image", (0, 1))({"image": torch.zeros(1, 40, 1, 48)})


def test_slices_are_axial_however_the_file_is_stored(tmp_path: Path) -> None:
    upright = nib.Nifti1Image(patches()[0].numpy(), np.diag([1.0, 1, 4, 1]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(upright.affine), nib.orientations.axcodes2ornt("SLA")
    )
    nib.save(upright, tmp_path / "upright.nii.gz")
    nib.save(upright.as_reoriented(turn), tmp_path / "turned.nii.gz")
    prepare = prepare_axial_slices("image", (-1024, 3071), (-160, 240), 250.0)
    first, second = (prepare({"image": tmp_path / f"{n}.nii.gz"})["image"] for n in ("upright", "turned"))
    assert first.shape == (2, 40, 48, 3)
    assert torch.equal(first.as_tensor(), second.as_tensor())


def test_without_regions_the_image_alone_comes_out(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(patches()[0].numpy(), np.diag([1.0, 1, 4, 1])), tmp_path / "a.nii.gz")
    image = prepare_axial_slices("image", (-1024, 3071), None, 250.0)({"image": tmp_path / "a.nii.gz"})[
        "image"
    ]
    assert image.shape == (1, 40, 48, 3)
    assert torch.allclose(250 * image.as_tensor(), patches().as_tensor(), atol=1e-3)
