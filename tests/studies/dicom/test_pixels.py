"""Compressed frames are held against the header before a decoder sees them, and decoded exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from medvit.errors import StudyError
from medvit.studies.dicom import read
from medvit.studies.study import Series
from tests.studies.dicom.encoding import SYNTAXES, save, save_as, save_by_gdcm
from tests.studies.dicom.hazards_of_files import multiframe
from tests.studies.dicom.synthetic import Synthetic, assert_right, made_up, set_pixels

ENCAPSULATED = ["rle", "jpegls", "j2k_lossless", "jpeg_lossless_sv1"]


def load(path: Path) -> tuple[np.ndarray, Synthetic]:
    image, grid, _ = read(Series((path,), "dicom"))
    truth = made_up()
    truth.stored, truth.positions = truth.stored[:1], truth.positions[:1]
    assert_right(image, grid, truth)
    return image, truth


def refusal(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        read(Series((path,), "dicom"))
    assert caught.value.path == path
    return caught.value.code


def with_frame(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The same file, its one frame changed and wrapped anew, so that nothing but the frame is wrong."""
    ds = dcmread(path)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([change(frame)])
    return save(ds, path)


@pytest.mark.parametrize("syntax", [s for s in SYNTAXES if s != "jpeg_lossless_sv1"])
def test_frames_of_a_multiframe_object(tmp_path: Path, syntax: str) -> None:
    truth = made_up()
    path = save_as(multiframe(truth), tmp_path / "frames.dcm", syntax)
    image, grid, _ = read(Series((path,), "dicom"))
    assert_right(image, grid, truth)


@pytest.mark.parametrize("syntax", ENCAPSULATED)
def test_a_frame_that_ends_too_early(tmp_path: Path, syntax: str) -> None:
    path = save_as(made_up().datasets()[0], tmp_path / "short.dcm", syntax)
    load(path)
    with_frame(path, lambda frame: frame[: len(frame) * 2 // 3])
    assert refusal(path) in ("dicom-truncated-pixels", "dicom-undecodable-pixels")


def test_jpeg_that_the_decoder_would_fill_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save_as(made_up().datasets()[0], tmp_path / "short.dcm", "jpeg_lossless_sv1")
    with_frame(path, lambda frame: frame[: len(frame) // 2] + b"\xff\xd9")
    capfd.readouterr()
    assert refusal(path) == "dicom-damaged-pixels"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("syntax", ENCAPSULATED[1:])
def test_a_frame_of_another_size(tmp_path: Path, syntax: str) -> None:
    ds = made_up().datasets()[0]
    set_pixels(ds, np.arange(40 * 36).reshape(40, 36))
    path = save_as(ds, tmp_path / "turned.dcm", syntax)
    ds = dcmread(path)
    ds.Rows, ds.Columns = 36, 40
    assert refusal(save(ds, path)) == "dicom-frame-size"


@pytest.mark.parametrize("syntax", ENCAPSULATED)
def test_a_frame_that_is_something_else(tmp_path: Path, syntax: str) -> None:
    path = save_as(made_up().datasets()[0], tmp_path / "noise.dcm", syntax)
    with_frame(path, lambda frame: np.random.default_rng(0).bytes(len(frame)))
    assert refusal(path) in ("dicom-truncated-pixels", "dicom-undecodable-pixels")


def test_fewer_frames_than_declared(tmp_path: Path) -> None:
    path = save_as(multiframe(made_up()), tmp_path / "frames.dcm", "j2k_lossless")
    ds = dcmread(path)
    frames = list(generate_frames(ds.PixelData, number_of_frames=10))
    ds.PixelData = encapsulate(frames[:9])
    assert refusal(save(ds, path)) == "dicom-truncated-pixels"


def test_values_beyond_the_stored_bits(tmp_path: Path) -> None:
    ds = made_up().datasets()[0]
    set_pixels(ds, made_up().stored[0] + 4096)
    ds.BitsStored, ds.HighBit = 16, 15
    path = save_as(ds, tmp_path / "wide.dcm", "jpegls")
    ds = dcmread(path)
    ds.BitsStored, ds.HighBit = 12, 11
    assert refusal(save(ds, path)) in ("dicom-bad-bits", "dicom-undecodable-pixels")


def test_lossy_jpeg_is_read_as_it_was_written(tmp_path: Path) -> None:
    ds = made_up().datasets()[0]
    smooth = np.add.outer(np.arange(36), 2 * np.arange(40)) + 20
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 36, 40, 8, 8, 7
    ds.PixelData, ds["PixelData"].VR = smooth.astype("u1").tobytes(), "OB"
    path = save_by_gdcm(ds, tmp_path / "lossy.dcm", gdcm.TransferSyntax.JPEGBaselineProcess1)
    image, _, _ = read(Series((path,), "dicom"))
    assert np.abs(image[:, :, 0].T + 1024 - smooth).max() <= 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda ds: setattr(ds, "PhotometricInterpretation", "PALETTE COLOR"), "dicom-not-grey"),
        (lambda ds: setattr(ds, "SamplesPerPixel", 3), "dicom-not-grey"),
        (lambda ds: setattr(ds, "HighBit", 15), "dicom-bad-bits"),
        (lambda ds: setattr(ds, "BitsStored", 17), "dicom-bad-bits"),
        (lambda ds: setattr(ds, "ModalityLUTSequence", [Dataset()]), "dicom-lookup-table"),
        (lambda ds: setattr(ds, "RescaleSlope", "1e300"), "dicom-bad-rescale"),
        (lambda ds: delattr(ds, "RescaleSlope"), "dicom-bad-rescale"),
        (lambda ds: delattr(ds, "SliceThickness"), "dicom-missing-attribute"),
        (lambda ds: delattr(ds, "SeriesInstanceUID"), "dicom-missing-attribute"),
        (lambda ds: setattr(ds, "NumberOfFrames", 2), "dicom-truncated-pixels"),
    ],
)
def test_images_whose_values_are_in_doubt(
    tmp_path: Path, change: Callable[[Dataset], None], code: str
) -> None:
    ds = made_up().datasets()[0]
    change(ds)
    assert refusal(save(ds, tmp_path / "doubtful.dcm")) == code
