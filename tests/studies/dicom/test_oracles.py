"""highdicom and dcm2niix, which share no code with the reader, see the same volumes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from medvit.studies.dicom import read, scan
from tests.studies.dicom.hazards_of_files import HAZARDS
from tests.studies.dicom.synthetic import made_up

pytestmark = pytest.mark.slow

BOTH_READ = [
    "01_base", "02_shuffled_names", "14b_one_slice_intercept", "15_signed", "17_anisotropic_pixels",
    "18_sagittal", "18b_oblique", "20_rle", "21_jpegls", "22_j2k_lossless", "23_jpeg_lossless_sv1",
    "25_implicit", "41_reversed_z",
]  # fmt: skip


def in_world(image: np.ndarray, affine: np.ndarray, other_affine: np.ndarray) -> np.ndarray:
    """The image in the index order of the other affine, which must be of the same voxels."""
    turn = np.linalg.inv(other_affine)[:3, :3] @ affine[:3, :3]
    axes = np.abs(turn).argmax(axis=1)
    np.testing.assert_allclose(np.abs(turn), np.eye(3)[axes], atol=1e-4)
    image = image.transpose(axes)
    return np.flip(image, [k for k in range(3) if turn[k, axes[k]] < 0])


@pytest.mark.parametrize("name", BOTH_READ)
def test_highdicom_agrees(name: str, tmp_path: Path) -> None:
    HAZARDS[name].write(made_up(), tmp_path)
    files = sorted(tmp_path.iterdir())
    image, grid, _ = read(scan(files).series[0])
    volume = highdicom.get_volume_from_series([dcmread(f) for f in files], apply_presentation_lut=False)
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    np.testing.assert_allclose(in_world(image, grid.affine, affine), volume.array, atol=1e-4)


# Of small JPEG lossless files as gdcm writes them, dcm2niix finds three in ten.
@pytest.mark.parametrize("name", [name for name in BOTH_READ if name != "23_jpeg_lossless_sv1"])
def test_dcm2niix_agrees(name: str, tmp_path: Path) -> None:
    program = shutil.which("dcm2niix", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("dcm2niix is not installed")
    HAZARDS[name].write(made_up(), tmp_path / "in")
    (tmp_path / "out").mkdir()
    command = [program, "-f", "volume", "-o", str(tmp_path / "out"), str(tmp_path / "in")]
    subprocess.run(command, check=True, capture_output=True)
    image, grid, _ = read(scan((tmp_path / "in").iterdir()).series[0])
    reference = nibabel.load(tmp_path / "out" / "volume.nii")
    expected = np.asanyarray(reference.dataobj)
    turned = in_world(image, grid.affine, reference.affine)
    np.testing.assert_allclose(turned, expected, atol=1e-4)
    corner = np.linalg.inv(reference.affine) @ grid.affine @ (0, 0, 0, 1)
    at_edge = np.isclose(corner[:3], 0, atol=1e-3) | np.isclose(
        corner[:3], np.array(expected.shape) - 1, atol=1e-3
    )
    assert at_edge.all()
