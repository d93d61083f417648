"""NRRD and MetaImage in: voxels and their places as SimpleITK writes them, and every damage is seen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medvit.errors import StudyError
from medvit.studies.itk_text import read_header, read_image

VOXELS = np.random.default_rng(3).integers(-500, 500, (6, 5, 4)).astype(np.int16)
COS, SIN = np.cos(0.3), np.sin(0.3)
DIRECTION = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, -1]])  # oblique and left-handed
SPACING, ORIGIN = np.array([0.8, 0.9, 2.5]), np.array([-10.0, 20, 30])
LPS_TO_RAS = np.diag([-1, -1, 1])


def image(voxels: np.ndarray = VOXELS, is_vector: bool = False) -> SimpleITK.Image:
    result = SimpleITK.GetImageFromArray(voxels.T, isVector=is_vector)
    result.SetSpacing(SPACING)
    result.SetOrigin(ORIGIN)
    result.SetDirection(DIRECTION.ravel())
    return result


def written(path: Path, compressed: bool = False) -> Path:
    SimpleITK.WriteImage(image(), str(path), compressed)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_voxels_and_places_are_those_written(name: str, compressed: bool, tmp_path: Path) -> None:
    array, grid, notes = read_image(written(tmp_path / name, compressed))
    np.testing.assert_array_equal(array, VOXELS)
    np.testing.assert_allclose(grid.affine[:3, :3], LPS_TO_RAS @ DIRECTION * SPACING, atol=1e-6)
    np.testing.assert_allclose(grid.affine[:3, 3], LPS_TO_RAS @ ORIGIN, atol=1e-6)
    assert array.dtype == np.float32 and array.flags.c_contiguous and not notes


def test_nrrd_in_ras_stays_ras(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior"))
    np.testing.assert_allclose(read_header(path).grid.affine[:3, 3], ORIGIN)


def test_sheared_axes_are_kept_and_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd")
    content = re.sub(
        rb"space directions: .*", b"space directions: (1,0,0) (0.2,1,0) (0,0,2)", path.read_bytes()
    )
    path.write_bytes(content)
    header = read_header(path)
    np.testing.assert_allclose(header.grid.affine[:3, :3], [[-1, -0.2, 0], [0, -1, 0], [0, 0, 2]])
    assert "right angles" in header.notes[0]


def test_slice_keeps_a_third_axis(tmp_path: Path) -> None:
    flat = SimpleITK.GetImageFromArray(VOXELS[:, :, 0].T)
    flat.SetSpacing((0.5, 0.25))
    SimpleITK.WriteImage(flat, str(tmp_path / "a.mha"))
    array, grid, notes = read_image(tmp_path / "a.mha")
    assert grid.spacing == (0.5, 0.25, 1) and "thickness" in notes[0]
    np.testing.assert_array_equal(array[..., 0], VOXELS[:, :, 0])


@pytest.mark.parametrize(
    ("name", "old", "new", "code"),
    [
        ("a.nrrd", b"space: left-posterior-superior\n", b"", "itk-missing-field"),
        ("a.nrrd", b"left-posterior-superior", b"scanner-xyz", "itk-space"),
        ("a.nrrd", b"space origin", b'space units: "um" "um" "um"\nspace origin', "itk-units"),
        ("a.nrrd", b"sizes: 6 5 4", b"sizes: 6 5 9", "itk-damaged"),
        ("a.nrrd", b"sizes: 6 5 4", b"sizes: 6 5 x", "itk-bad-field"),
        ("a.nrrd", b"sizes: 6 5 4", b"sizes: 60000 5 4", "itk-size"),
        ("a.nrrd", b"type: short", b"type: block", "itk-datatype"),
        ("a.nrrd", b"encoding: raw", b"encoding: bzip2", "itk-encoding"),
        ("a.nrrd", b"endian: little", b"byte skip: 4", "itk-encoding"),
        ("a.nrrd", b"endian: little\n", b"", "itk-missing-field"),
        ("a.nhdr", b"data file: a.raw", b"data file: ../a.raw", "itk-data-file"),
        ("a.nhdr", b"data file: a.raw", b"data file: b.raw", "itk-data-file"),
        ("a.mha", b"ElementSpacing = 0.8", b"ElementSpacing = 0.0", "itk-affine"),
        ("a.mha", b"ElementSpacing", b"ElementPacing", "itk-missing-field"),
        ("a.mha", b"TransformMatrix", b"TransformTrix", "itk-missing-field"),
        ("a.mha", b"Offset = -10", b"Offset = nan", "itk-affine"),
        ("a.mha", b"DimSize = 6 5 4", b"DimSize = 6 5 9", "itk-damaged"),
        ("a.mha", b"BinaryData = True", b"BinaryData = False", "itk-encoding"),
        ("a.mha", b"DimSize", b"HeaderSize = 12\nDimSize", "itk-encoding"),
        ("a.mha", b"MET_SHORT", b"MET_LONG", "itk-datatype"),
        ("a.mha", b"NDims = 3", b"NDims = 4", "itk-dimension"),
        ("a.mha", b"ObjectType", b"Objecttype", "itk-magic"),
        ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = /etc/passwd", "itk-data-file"),
        ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = LIST", "itk-data-file"),
    ],
)
def test_bad_headers_are_refused(name: str, old: bytes, new: bytes, code: str, tmp_path: Path) -> None:
    path = written(tmp_path / name)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(StudyError) as refusal:
        read_image(path)
    assert refusal.value.code == code and refusal.value.path == path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_truncated_files_are_refused(name: str, compressed: bool, tmp_path: Path) -> None:
    path = written(tmp_path / name, compressed)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StudyError, match="itk-damaged"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_flipped_bit_in_compressed_voxels_is_seen(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, compressed=True)
    content = path.read_bytes()
    offset = read_header(path).offset
    for place in range(offset + 10, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(StudyError, match="itk-damaged"):
            read_image(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_random_damage_is_never_an_untyped_error(name: str, compressed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = written(tmp_path / name, compressed)
    content = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            array, _, _ = read_image(path)
        except StudyError:
            continue
        assert array.shape == VOXELS.shape or not compressed


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_every_type_of_voxel(name: str, kind: str, tmp_path: Path) -> None:
    voxels = (VOXELS // 8).astype(kind)
    SimpleITK.WriteImage(image(voxels), str(tmp_path / name))
    np.testing.assert_array_equal(read_image(tmp_path / name)[0], voxels.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "little", "big"),
    [
        ("a.nrrd", b"endian: little", b"endian: big"),
        ("a.mha", b"ByteOrderMSB = False", b"ByteOrderMSB = True"),
    ],
)
def test_big_endian(name: str, little: bytes, big: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / name)
    offset = read_header(path).offset
    content = path.read_bytes()[:offset].replace(little, big) + VOXELS.astype(">i2").tobytes(order="F")
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path)[0], VOXELS)


def test_vectors_are_refused(tmp_path: Path) -> None:
    SimpleITK.WriteImage(image(np.stack([VOXELS, VOXELS]), is_vector=True), str(tmp_path / "a.mha"))
    with pytest.raises(StudyError, match="itk-channels"):
        read_image(tmp_path / "a.mha")


def test_bombs_are_refused_from_their_header(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mha", compressed=True)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 6 5 4", b"DimSize = 1000 1000 1000"))
    with pytest.raises(StudyError, match="itk-bomb"):
        read_header(path)


def test_non_finite_voxels_are_refused_or_replaced(tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    SimpleITK.WriteImage(image(voxels), str(tmp_path / "a.mha"))
    with pytest.raises(StudyError, match="itk-non-finite"):
        read_image(tmp_path / "a.mha")
    assert read_image(tmp_path / "a.mha", non_finite=-9)[0][0, 0, 0] == -9
