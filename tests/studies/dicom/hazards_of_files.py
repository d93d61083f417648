"""Hazards that lie in how files are encoded: transfer syntaxes, damage, multi-frame objects, bombs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage

from tests.studies.dicom.encoding import cut, deflate_bomb, insert_before, nested_sequences, save, save_as
from tests.studies.dicom.hazards import HAZARDS, ODD, Hazard, hazard, one
from tests.studies.dicom.synthetic import Synthetic

# Syntaxes and damage ------------------------------------------------------------------------------------


def encoded(name: str, syntax: str) -> None:
    def write(truth: Synthetic, folder: Path) -> None:
        for k, ds in enumerate(truth.datasets()):
            save_as(ds, folder / f"IM{k:04d}.dcm", syntax)

    HAZARDS[name] = Hazard(write)


def truncated(name: str, syntax: str, refusal: str = "dicom-damaged-file") -> None:
    """The last slice's pixels end too early, which leaves no gap among the others."""

    def write(truth: Synthetic, folder: Path) -> None:
        HAZARDS["01_base"].write(truth, folder)
        last = folder / f"IM{len(truth.stored) - 1:04d}.dcm"
        save_as(truth.datasets()[-1], last, syntax) if syntax else None
        cut(last, -200)

    HAZARDS[name] = Hazard(write, refusal)


encoded("20_rle", "rle")
encoded("21_jpegls", "jpegls")
encoded("22_j2k_lossless", "j2k_lossless")
encoded("23_jpeg_lossless_sv1", "jpeg_lossless_sv1")
encoded("24_deflated", "deflated")
encoded("25_implicit", "implicit")
encoded("26_big_endian", "big_endian")
truncated("31_truncated_pixels", "", "dicom-truncated-pixels")
truncated("31c_truncated_j2k", "j2k_lossless")
truncated("31d_truncated_rle", "rle")
truncated("31e_truncated_jpegls", "jpegls")


@hazard("27_no_preamble")
def _(truth: Synthetic, folder: Path) -> None:
    HAZARDS["01_base"].write(truth, folder)
    for path in folder.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])


@hazard("31b_truncated_header", "dicom-damaged-file")
def _(truth: Synthetic, folder: Path) -> None:
    HAZARDS["01_base"].write(truth, folder)
    cut(folder / f"IM{len(truth.stored) - 1:04d}.dcm", 900)


@hazard("31f_corrupt_j2k", "dicom-damaged-pixels")
def _(truth: Synthetic, folder: Path) -> None:
    HAZARDS["22_j2k_lossless"].write(truth, folder)
    path = folder / f"IM{ODD:04d}.dcm"
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\x93") + 40
    for offset in range(start, start + 200, 5):
        data[offset] ^= 0x55
    path.write_bytes(bytes(data))


def multiframe(truth: Synthetic) -> Dataset:
    """An enhanced CT object of all slices, its frames in a scrambled order."""
    ds = truth.datasets()[0]
    order = np.random.default_rng(5).permutation(len(truth.stored))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    shared, measures, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, "3"
    orientation.ImageOrientationPatient = ds.ImageOrientationPatient
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", "-1024", "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([values])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [f"{v:.10g}" for v in truth.positions[k]]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        if keyword in ds:
            delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.SmallestImagePixelValue, ds.LargestImagePixelValue
    ds.NumberOfFrames = len(order)
    ds.PixelData = truth.stored[order].astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


@hazard("28_enhanced_ct_multiframe")
def _(truth: Synthetic, folder: Path) -> None:
    save(multiframe(truth), folder / "enhanced.dcm")


# Hostile ------------------------------------------------------------------------------------------------


@one("35_huge_rows_cols", "dicom-too-large", which=0)
def _(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 65535


@one("35b_huge_frames", "dicom-too-large", which=0)
def _(ds: Dataset) -> None:
    ds.NumberOfFrames = 2_000_000_000


@hazard("43_deflate_bomb_1.5GB", "dicom-inflates-too-far")
def _(truth: Synthetic, folder: Path) -> None:
    deflate_bomb(truth.datasets()[0], folder / "bomb.dcm", 1.5)


@hazard("44_j2k_codestream_8192_header_96x128", "dicom-frame-size")
def _(truth: Synthetic, folder: Path) -> None:
    path = save_as(truth.datasets()[0], folder / "bomb.dcm", "j2k_lossless")
    data = bytearray(path.read_bytes())
    size = data.index(b"\xff\x4f\xff\x51") + 8
    data[size : size + 8] = (8192).to_bytes(4, "big") * 2
    path.write_bytes(bytes(data))


@hazard("45_nested_sequences_3000", "dicom-nested-too-deep")
def _(truth: Synthetic, folder: Path) -> None:
    HAZARDS["01_base"].write(truth, folder)
    insert_before(folder / f"IM{ODD:04d}.dcm", b"\x10\x00\x10\x00", nested_sequences(3000))
