"""Intensities into a restorer's units, region maps slice by slice, and what no restorer may touch."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import StudyError
from medvit.transforms import ClampRestoredd, KeepOutsided, RegionChanneld, ScaleToUnitd, prepare_axial_slices
from medvit.transforms.regions import felzenszwalb_regions
from medvit.transforms.restoration import UNIT


def patches(depth: int = 3) -> MetaTensor:
    """(1, 40, 48, depth): four squares that differ from slice to slice, with some noise."""
    rng = np.random.default_rng(0)
    coarse = np.stack([rng.permutation([-100, 0, 100, 200]) for _ in range(depth)], -1).reshape(2, 2, depth)
    values = np.kron(coarse, np.ones((20, 24, 1))) + rng.normal(0, 3, (40, 48, depth))
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None])


def test_a_fixed_unit_divides_what_the_limits_leave() -> None:
    image = MetaTensor(torch.tensor([[[-3024.0, -1000.0], [0.0, 9000.0]]]))
    scaled = ScaleToUnitd("image", (-1024, 3071), 250.0)({"image": image})["image"]
    assert torch.allclose(scaled.as_tensor() * 250, torch.tensor([[[-1024.0, -1000.0], [0.0, 3071.0]]]))
    assert scaled.meta[UNIT] == 250.0
    assert image.min() == -3024


def test_its_own_unit_is_the_bright_tissue_and_not_the_air() -> None:
    image = torch.zeros(1, 100, 100)
    image[:, :20] = torch.linspace(100, 300, 2000).reshape(20, 100)
    for empty in (0, 30000):
        padded = MetaTensor(torch.cat([image.flatten(), torch.zeros(empty)])[None, None])
        unit = ScaleToUnitd("image", (1e-6, 1e9))({"image": padded})["image"].meta[UNIT]
        assert unit == pytest.approx(299, abs=1.5)
    assert ScaleToUnitd("image", (1e-6, 1e9))({"image": MetaTensor(torch.zeros(1, 4, 4))})["image"].max() < 1


def test_padding_and_metal_stay() -> None:
    source = torch.tensor([[-3024.0, -500.0, 100.0, 5000.0]])
    restored = torch.tensor([[-1024.0, -510.0, 90.0, 3000.0]])
    kept = KeepOutsided("pred", (-1024, 3071))({"pred": restored, "source": source})["pred"]
    assert kept.tolist() == [[-3024.0, -510.0, 90.0, 5000.0]]


def test_no_voxel_leaves_what_its_kind_of_image_can_hold() -> None:
    restored = torch.tensor([-1100.0, -1000.0, 50.0, 4000.0]).reshape(1, 4, 1, 1)
    clamped = ClampRestoredd("pred", (-1024, 3071))({"pred": restored})["pred"]
    assert clamped.flatten().tolist() == [-1024.0, -1000.0, 50.0, 3071.0]


def test_a_magnitude_is_not_negative_and_no_brighter_than_its_neighbourhood() -> None:
    source = torch.zeros(1, 8, 8, 3, dtype=torch.int16)
    source[0, 2, 2, 1], source[0, 6, 6, 1] = 100, 40
    restored = torch.full((1, 8, 8, 3), 70.0)
    restored[0, 0, 0] = -5
    clamp = ClampRestoredd("pred", (1e-6, 1e9), within_source=True)
    clamped = clamp({"pred": MetaTensor(restored), "source": source})["pred"]
    assert clamped[0, 2, 2, 1] == 70 and clamped[0, 3, 3, 2] == 70
    assert clamped[0, 6, 5, 0] == 40
    assert 0 < clamped[0, 0, 0].max() < 1e-5 and 0 < clamped[0, 0, 7, 0] < 1e-5


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
