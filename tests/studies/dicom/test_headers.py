"""Attributes of one file, read without trust: each fault is an error with its tag."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medvit.errors import StudyError
from medvit.studies.dicom.headers import (
    Attributes,
    NotDicomError,
    named,
    read_header,
    series_uid_of_damaged,
)

SERIES = "1.2.3.4"


def attributes(**values: Any) -> Attributes:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Attributes(dataset, Path("x.dcm"))


def image(**values: Any) -> Dataset:
    dataset = Dataset()
    stated = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": "1.2.3", "Modality": "CT", "Rows": 1,
              "SeriesInstanceUID": SERIES, "ImageType": ["original ", "Primary"]} | values  # fmt: skip
    for keyword, value in stated.items():
        setattr(dataset, keyword, value)
    dataset.add_new(0x7FE00010, "OW", b"\0\0")
    return dataset


def written(
    folder: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian, *, bare: bool = False
) -> Path:
    file = folder / "image.dcm"
    if bare:
        dcmwrite(file, dataset, implicit_vr=True, little_endian=True)
        return file
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(file, dataset, enforce_file_format=True)
    return file


def test_an_attribute_is_named_with_its_tag() -> None:
    assert named("Rows") == "Rows (0028,0010)"
    error = attributes().fault("dicom-bad-value", "is odd", "PixelSpacing", "mend it")
    assert str(error) == "x.dcm: is odd [PixelSpacing (0028,0030)]; mend it (dicom-bad-value)"


def test_absent_and_empty_attributes_are_nothing() -> None:
    empty = attributes(PixelSpacing=None, SeriesDescription="")
    for keyword in ("PixelSpacing", "SeriesDescription", "Rows"):
        assert not empty.has(keyword) and empty.text(keyword) == "" and empty.numbers(keyword) == ()
        assert empty.number(keyword) is None
        with pytest.raises(StudyError, match="the attribute is missing or empty") as error:
            empty.need(keyword)
        assert error.value.code == "dicom-missing-attribute" and error.value.tag == named(keyword)


def test_an_absent_sequence_has_no_items() -> None:
    assert attributes().items("SharedFunctionalGroupsSequence") == []


def test_numbers_are_finite_and_as_many_as_expected() -> None:
    found = attributes(PixelSpacing=["0.5", "0.75"], Rows=512, SliceThickness="1e400")
    assert found.numbers("PixelSpacing", 2) == (0.5, 0.75) and found.number("Rows") == 512.0
    with pytest.raises(StudyError, match=r"the value \(0\.5, 0\.75\) is not usable"):
        found.numbers("PixelSpacing", 3)
    with pytest.raises(StudyError, match=r"not usable|not a number"):
        found.number("SliceThickness")


def test_text_of_several_values_is_joined_and_of_names_kept() -> None:
    found = attributes(ImageType=["ORIGINAL", "PRIMARY"], PatientName="Doe^Jane", Rows=7)
    assert found.text("ImageType") == "ORIGINAL\\PRIMARY"
    assert (found.text("PatientName"), found.text("Rows")) == ("Doe^Jane", "7")


def test_items_of_a_sequence_name_the_same_file() -> None:
    item = Dataset()
    item.Rows = 3
    (inner,) = attributes(SharedFunctionalGroupsSequence=Sequence([item])).items(
        "SharedFunctionalGroupsSequence"
    )
    assert inner.need("Rows") == (3.0,) and inner.path == Path("x.dcm")


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_header_is_read_in_every_syntax(tmp_path: Path, syntax: str) -> None:
    header = read_header(written(tmp_path, image(), syntax))
    assert header.syntax == syntax and header.text("SeriesInstanceUID") == SERIES
    assert header.sop_class == "CT Image Storage" and header.is_image
    assert header.image_type == ("ORIGINAL", "PRIMARY")


def test_a_data_set_without_a_preamble_is_read(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, image(), bare=True))
    assert header.syntax == ImplicitVRLittleEndian and header.text("Modality") == "CT"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, False), ({"SOPClassUID": "1.3.9.9"}, True),
     ({"SOPClassUID": ""}, True), ({"SOPClassUID": "", "Rows": None, "Modality": ""}, False)],
)  # fmt: skip
def test_an_image_is_told_by_its_class_or_its_rows(
    tmp_path: Path, changes: dict[str, Any], expected: bool
) -> None:
    dataset = image(**changes)
    file = tmp_path / "any.dcm"
    dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    assert read_header(file).is_image is expected


def test_other_files_and_cut_ones_are_told_apart(tmp_path: Path) -> None:
    for content, words in ((b"", "an empty file"), (b"hello, world", "not a DICOM file")):
        file = tmp_path / "other"
        file.write_bytes(content)
        with pytest.raises(NotDicomError, match=words):
            read_header(file)
    with pytest.raises(StudyError, match="cannot be opened"):
        read_header(tmp_path / "missing.dcm")
    whole = written(tmp_path, image()).read_bytes()
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")])
    with pytest.raises(StudyError, match="cut off before its pixels"):
        read_header(cut)
    # The series comes before the rows, at which the file now ends.
    assert series_uid_of_damaged(cut) == SERIES
    cut.write_bytes(whole[: whole.index(SERIES.encode()) + 3])
    assert series_uid_of_damaged(cut) == ""


def test_a_small_file_must_not_unpack_to_a_huge_one(tmp_path: Path) -> None:
    file = written(tmp_path, image(), DeflatedExplicitVRLittleEndian)
    whole = file.read_bytes()
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(zlib.decompress(whole[start:], -zlib.MAX_WBITS) + bytes(2**28)) + packer.flush()
    file.write_bytes(whole[:start] + bomb)
    with pytest.raises(StudyError, match="unpacks to more than an image would") as error:
        read_header(file)
    assert error.value.code == "dicom-inflates-too-far"
