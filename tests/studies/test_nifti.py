"""NIfTI in: each hazardous file is read right or refused with its cause, and none in silence."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.studies.nifti import read_header, read_image
from tests.studies import nifti_cases as hazards


def read(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    header = read_header(path)
    array, notes = read_image(header)
    return array, header.grid.affine, header.notes + notes


@pytest.mark.parametrize("case", hazards.CASES, ids=lambda case: case.name)
def test_hazard_is_decided(case: hazards.Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    if case.code:
        with pytest.raises(StudyError) as refusal:
            read(path)
        assert refusal.value.code == case.code
        assert refusal.value.path == path
        assert case.tag in refusal.value.tag
        assert refusal.value.do
    else:
        array, affine, notes = read(path)
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(
            array, np.float32(hazards.VOXELS if case.voxels is None else case.voxels)
        )
        np.testing.assert_allclose(affine, hazards.AFFINE if case.affine is None else case.affine, atol=2e-5)
        assert any(case.note in note for note in notes) if case.note else not notes


def test_every_hazard_has_a_name_of_its_own() -> None:
    assert len({case.name for case in hazards.CASES}) == len(hazards.CASES)


BOMB = """
import resource, sys, time
from medvit.studies.nifti import read_header, read_image
from medvit.errors import StudyError
before, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
try:
    read_image(read_header(sys.argv[1]))
except StudyError as error:
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(error.code, time.process_time() - start, (after.ru_maxrss - before.ru_maxrss) / 1024)
"""


@pytest.mark.parametrize("name", ["n19_gz_bomb_2GB.nii.gz", "n19b_gz_trailing_bomb.nii.gz", "extension"])
def test_bombs_are_refused_in_5_cpu_s_and_500_mb(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    if name == "extension":
        offset = (hazards.VOX_OFFSET, "f", (2.0**31,))
        path.write_bytes(gzip.compress(hazards.patched(offset) + b"\0" * 2**27))
    else:
        path = next(case for case in hazards.CASES if case.name == name).write(tmp_path)
    done = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True)
    code, seconds, megabytes = done.stdout.split()
    assert code.startswith("nifti-")
    assert float(seconds) < 5 and float(megabytes) < 500


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_agrees_with_nibabel(version: int, endianness: str, dtype: str, tmp_path: Path) -> None:
    voxels = np.abs(hazards.VOXELS).astype(dtype)
    path = tmp_path / "image.nii"
    path.write_bytes(hazards.sound(voxels, endianness=endianness, version=version))
    array, affine, _ = read(path)
    image = nibabel.load(path)
    np.testing.assert_array_equal(array, np.asarray(image.dataobj))
    np.testing.assert_array_equal(affine, image.affine)


@pytest.mark.parametrize("seed", range(3))
def test_qform_of_any_rotation_agrees_with_nibabel(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # left- and right-handed alike
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.5, 5, 3)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    path = tmp_path / "image.nii"
    path.write_bytes(hazards.patched(hazards.ONE, content=hazards.sound(affine=affine)))
    np.testing.assert_allclose(read_header(path).grid.affine, affine, atol=1e-4)


def test_half_turn_quaternion(tmp_path: Path) -> None:
    # Here a is 0 and rounding can make b^2 + c^2 + d^2 exceed 1.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    content = hazards.sound(affine=affine)
    path = tmp_path / "image.nii"
    path.write_bytes(hazards.patched(hazards.ONE, (256, "3f", (0, 0, 1.00001)), content=content))
    np.testing.assert_allclose(read_header(path).grid.affine, affine, atol=1e-4)


def test_sform_and_qform_apart_are_noted(tmp_path: Path) -> None:
    moved = hazards.AFFINE.copy()
    moved[0, 3] += 5
    path = tmp_path / "image.nii"
    path.write_bytes(hazards.patched((hazards.SROW, "12f", tuple(moved[:3].ravel()))))
    _, affine, notes = read(path)
    np.testing.assert_allclose(affine, moved, atol=1e-5)
    assert "5.0 mm apart" in notes[0]


def test_2d_image_keeps_a_third_axis(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(hazards.sound(hazards.VOXELS[:, :, 0])))
    header = read_header(path)
    assert header.grid.shape == (24, 20, 1) and len(header.dim) == 2
    np.testing.assert_array_equal(read_image(header)[0][..., 0], hazards.VOXELS[:, :, 0])


def test_one_volume_of_four_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(hazards.sound(np.stack([hazards.VOXELS + i for i in range(4)], -1))))
    np.testing.assert_array_equal(read_image(read_header(path), 2)[0], hazards.VOXELS + 2)


def test_non_finite_voxels_are_replaced_on_request_and_counted(tmp_path: Path) -> None:
    case = next(case for case in hazards.CASES if case.name.startswith("n07"))
    array, notes = read_image(read_header(case.write(tmp_path)), non_finite=-1)
    assert array[1, 2, 3] == array[4, 5, 6] == -1 and (array != hazards.VOXELS).sum() == 2
    assert notes[0].startswith("2 voxels")


def test_doubles_beyond_float32_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(hazards.sound(np.full((4, 4, 4), 1e300)))
    with pytest.raises(StudyError, match="nifti-non-finite"):
        read(path)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_gzip_without_its_checksum_is_truncated(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(hazards.HALF[:-cut])
    with pytest.raises(StudyError, match="nifti-truncated"):
        read(path)


def test_flipped_bit_in_gzip_is_seen(tmp_path: Path) -> None:
    content = bytearray(hazards.HALF)
    content[-6] ^= 1  # in the checksum itself
    path = tmp_path / "image.nii.gz"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="nifti-gzip-damaged"):
        read(path)


def test_random_damage_is_never_an_untyped_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "image.nii"
    for version in (1, 2):
        content = hazards.sound(hazards.VOXELS[:6, :5, :4], version=version)
        for _ in range(400):
            damaged = bytearray(content)
            for place in rng.integers(0, 560, rng.integers(1, 12)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                array, affine, _ = read(path)
            except StudyError:
                continue
            assert np.isfinite(array).all() and np.linalg.det(affine) != 0


def test_header_gate_is_fast_and_light() -> None:
    code = (
        "import sys, medvit.studies.nifti_header\n"
        "print([m for m in ('torch', 'monai', 'nibabel', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
