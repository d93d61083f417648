"""Voxels keep their place between 3D Slicer, our NIfTI files and other readers of them."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from MedViTLib.errors import MedViTError
from MedViTLib.nifti import read_nifti, write_nifti
from MedViTLib.volume import Volume, as_label_map, renumbered, volumes_ml

from tests.slicer.grids import AFFINES, phantom


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 1), (1, 1, 1)])
def test_a_written_volume_is_the_same_to_another_reader(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    volume = phantom(name, shape)
    image = nib.load(write_nifti(tmp_path / "v.nii.gz", volume))
    assert image.get_data_dtype() == volume.voxels.dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.voxels)
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "f4", "f8"])
def test_a_volume_survives_both_ways(name: str, dtype: str, tmp_path: Path) -> None:
    volume = phantom(name, dtype=dtype)
    back = read_nifti(write_nifti(tmp_path / "v.nii.gz", volume).read_bytes(), "v")
    assert back.voxels.dtype == volume.voxels.dtype
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    assert back.same_grid(volume)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_volume_of_another_writer_is_read(name: str, suffix: str, order: str, tmp_path: Path) -> None:
    wanted = phantom(name, dtype="f4")
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype("f4").newbyteorder(order))
    path = tmp_path / f"v{suffix}"
    nib.save(nib.Nifti1Image(wanted.voxels, wanted.affine, header), path)
    back = read_nifti(path.read_bytes(), "v")
    np.testing.assert_array_equal(back.voxels, wanted.voxels)
    assert back.same_grid(wanted)


def test_slices_and_scaling_of_another_writer(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    image = nib.Nifti1Image(np.array([[1, 2, 3]], np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, path)
    back = read_nifti(path.read_bytes(), "v")
    assert back.voxels.shape == (1, 3, 1)
    np.testing.assert_allclose(back.voxels.ravel(), [10.5, 11, 11.5])


def test_a_restored_image_keeps_full_precision(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    path = write_nifti(tmp_path / "v.nii.gz", Volume(voxels, np.eye(4)))
    np.testing.assert_array_equal(read_nifti(path.read_bytes(), "v").voxels, voxels)


@pytest.mark.parametrize("name", AFFINES)
def test_mrml_arrays_have_their_axes_the_other_way_round(name: str) -> None:
    wanted = phantom(name)
    array, ijk_to_ras = wanted.to_mrml()
    assert array.shape == (5, 6, 7)
    assert array[4, 3, 2] == wanted.voxels[2, 3, 4]
    back = Volume.from_mrml(array, ijk_to_ras, "phantom")
    np.testing.assert_array_equal(back.voxels, wanted.voxels)
    assert back.same_grid(wanted)


def test_grids_that_look_alike_are_told_apart() -> None:
    volume = phantom("RAS", (6, 6, 6))
    assert not volume.same_grid(phantom("LPS", (6, 6, 6)))
    shifted = AFFINES["RAS"].copy()
    shifted[0, 3] += 0.05
    assert not volume.same_grid(Volume(volume.voxels, shifted))
    np.testing.assert_allclose(phantom("permuted").spacing, (0.5, 1.0, 2.0))


@pytest.mark.parametrize(
    ("voxels", "affine", "says"),
    [
        (np.zeros((2, 3, 4, 3)), np.eye(4), "one value at each voxel"),
        (np.zeros((0, 3, 4)), np.eye(4), "one value at each voxel"),
        (np.zeros((2, 3, 4)), np.diag([1.0, 0, 1, 1]), "do not span space"),
        (np.zeros((2, 3, 4)), np.full((4, 4), np.nan), "do not span space"),
    ],
)
def test_what_is_no_volume_is_refused(voxels: np.ndarray, affine: np.ndarray, says: str) -> None:
    with pytest.raises(MedViTError, match=says):
        Volume(voxels, affine, "rgb")


def test_what_nifti_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedViTError, match="cannot be handed over"):
        write_nifti(tmp_path / "v.nii.gz", Volume(np.zeros((2, 2, 2), np.complex64), np.eye(4)))
    assert not list(tmp_path.iterdir())


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    good = write_nifti(tmp_path / "v.nii.gz", phantom()).read_bytes()
    with pytest.raises(MedViTError, match="damaged"):
        read_nifti(good[: len(good) // 2], "v")
    with pytest.raises(MedViTError, match="ends too early"):
        read_nifti(gzip.decompress(good)[:-1], "v")
    with pytest.raises(MedViTError, match="is not a NIfTI image"):
        read_nifti(b"NRRD0004\n" + bytes(400), "v")
    nowhere = bytearray(gzip.decompress(good))
    nowhere[254:256] = bytes(2)
    with pytest.raises(MedViTError, match="place in space"):
        read_nifti(bytes(nowhere), "v")


def test_label_maps_come_as_integers_that_have_names() -> None:
    voxels = np.zeros((2, 2, 2), np.float32)
    voxels[0, 0] = 2
    label_map = as_label_map(Volume(voxels, AFFINES["RAS"]), ("liver", "spleen"))
    assert label_map.voxels.dtype == np.uint8
    assert volumes_ml(label_map, ("liver", "spleen")) == {"liver": 0.0, "spleen": pytest.approx(0.002)}
    many = as_label_map(Volume(voxels, AFFINES["RAS"]), tuple(f"part {k}" for k in range(300)))
    assert many.voxels.dtype == np.int16
    for wrong in (3, -1, 0.5, np.nan):
        voxels[1, 1, 1] = wrong
        with pytest.raises(MedViTError, match="names the values 1 to 2"):
            as_label_map(Volume(voxels.copy(), np.eye(4)), ("liver", "spleen"))


def test_values_with_gaps_are_renumbered_for_names_by_position() -> None:
    volume = Volume(np.array([0, 1, 4, 2]).reshape(2, 2, 1), np.eye(4), "labels")
    assert renumbered(volume, [1, 4]).voxels.ravel().tolist() == [0, 1, 2, -1]
    assert renumbered(volume, [1, 2, 3, 4]) is volume
