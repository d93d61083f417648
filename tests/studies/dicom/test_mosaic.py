"""Siemens mosaics become the slices that they are made of."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medvit.errors import StudyError
from medvit.studies.dicom import read, scan
from medvit.studies.study import Series
from tests.studies.dicom.encoding import save
from tests.studies.dicom.synthetic import Synthetic, assert_right, made_up, set_pixels


def csa_header(fields: dict[str, list[str]]) -> bytes:
    """The private header in its second form: named fields, six items each."""
    data = b"SV10\4\3\2\1" + struct.pack("<II", len(fields), 77)
    for name, values in fields.items():
        data += name.encode().ljust(64, b"\0") + struct.pack("<i4siii", len(values), b"FD\0\0", 3, 6, 77)
        for value in [*values, *[""] * (6 - len(values))]:
            text = value.encode() + b"\0" if value else b""
            data += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return data


def mosaic(truth: Synthetic, upward: bool) -> Dataset:
    """All slices in one image of 4 x 4 tiles, the last six of them empty."""
    count, rows, columns = truth.stored.shape
    tiles = np.zeros((16, rows, columns), int)
    tiles[:count] = truth.stored
    whole = tiles.reshape(4, 4, rows, columns).swapaxes(1, 2).reshape(4 * rows, 4 * columns)
    ds = truth.datasets()[0]
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    set_pixels(ds, whole)
    # Where an image as large as the mosaic would start, centred on the first slice.
    shift = 1.5 * truth.spacing[1] * columns * truth.orientation[:3]
    shift = shift + 1.5 * truth.spacing[0] * rows * truth.orientation[3:]
    ds.ImagePositionPatient = [f"{v:.10g}" for v in truth.positions[0] - shift]
    ds.SpacingBetweenSlices = "2"
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    normal = ["0", "0", "1" if upward else "-1"]
    header = {"EchoLinePosition": ["32"], "NumberOfImagesInMosaic": [str(count)], "SliceNormalVector": normal}
    block.add_new(0x10, "OB", csa_header(header))
    return ds


@pytest.mark.parametrize("upward", [False, True])
def test_tiles_become_slices_at_their_place(tmp_path: Path, upward: bool) -> None:
    truth = made_up()
    if upward:
        truth.positions = truth.positions[::-1]
    save(mosaic(truth, upward), tmp_path / "mosaic.dcm")
    (series,) = scan([tmp_path / "mosaic.dcm"]).series
    image, grid, _ = read(series)
    assert_right(image, grid, truth)


@pytest.mark.parametrize("damage", ["no header", "no count", "cut header", "too many"])
def test_a_mosaic_that_does_not_tell_how_is_refused(tmp_path: Path, damage: str) -> None:
    ds = mosaic(made_up(), upward=False)
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER")
    if damage == "no header":
        del block[0x10]
    elif damage == "no count":
        block[0x10].value = csa_header({"SliceNormalVector": ["0", "0", "1"]})
    elif damage == "cut header":
        block[0x10].value = block[0x10].value[:300]
    else:
        block[0x10].value = block[0x10].value.replace(b"10\0", b"99\0")
    path = save(ds, tmp_path / "mosaic.dcm")
    with pytest.raises(StudyError) as refusal:
        read(Series((path,), "dicom"))
    assert refusal.value.code == "dicom-mosaic"
    assert "dcm2niix" in refusal.value.do
