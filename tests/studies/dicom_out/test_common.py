"""Common parts of DICOM results: numbers, identities, and whose names stand where."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from medvit.studies.dicom_out import read_source, save_dicom
from medvit.studies.dicom_out.common import (
    Algorithm,
    equipment,
    identity,
    nameless,
    new_object,
    reference_to,
    series_number,
    side_of,
)
from medvit.studies.dicom_out.source import SourceSeries
from medvit.studies.labels import load_label_table
from tests.studies.dicom_out.synthetic import write_series

ALGORITHM = Algorithm("segformer3d_test", "1.2.0", "ab" * 32)


@pytest.mark.parametrize(
    ("source", "number"), [(3, 351), ("", 51), (None, 51), (-4, 51), (123_456, 2_345_651)]
)
def test_results_sort_after_their_source(source: object, number: int) -> None:
    first = Dataset()
    if source is not None:
        first.SeriesNumber = source
    assert series_number(SourceSeries((first,), ()), 1) == number
    assert number < 2**31, "an IS has at most that"


def test_identities_are_new_each_time_and_descriptions_fit() -> None:
    source = SourceSeries((Dataset(),), ())
    one, other = (identity(source, 2, "x" * 80) for _ in range(2))
    assert one["series_instance_uid"] != other["series_instance_uid"]
    assert one["sop_instance_uid"] != other["sop_instance_uid"]
    assert one["series_description"] == "x" * 64 and one["series_number"] == 52


def test_the_equipment_names_bundle_and_weights() -> None:
    said = equipment(ALGORITHM)
    assert said["manufacturer_model_name"] == "segformer3d_test"
    assert said["device_serial_number"] == "ab" * 8
    assert equipment(Algorithm("a", "1"))["device_serial_number"] == "none"
    assert ALGORITHM.parameters == {"weights_sha256": "ab" * 32} and Algorithm("a", "1").parameters == {}


def test_a_copy_without_names_leaves_the_header_alone(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "ct")
    header = pydicom.dcmread(paths[0], stop_before_pixels=True)
    copy = nameless(header)
    assert copy.PatientName == "" and copy.ReferringPhysicianName == ""
    assert header.PatientName == "Doe^Jane" and copy.PatientID == "P1"


def test_a_new_object_belongs_to_the_study_of_its_source(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "ct")
    source = read_source(paths)
    made = new_object(source, "1.2.840.10008.5.1.4.1.1.104.1", "DOC", 3, "Report", ALGORITHM)
    first = source.first
    assert made.StudyInstanceUID == first.StudyInstanceUID
    assert made.SeriesInstanceUID != first.SeriesInstanceUID
    assert (made.PatientName, made.PatientID, made.StudyDate) == ("Doe^Jane", "P1", "20200304")
    assert (made.Modality, made.SeriesNumber, made.SeriesDescription) == ("DOC", 353, "Report")
    save_dicom(made, tmp_path / "made.dcm")
    assert pydicom.dcmread(tmp_path / "made.dcm").SOPInstanceUID == made.SOPInstanceUID
    assert not list(tmp_path.glob(".partial*"))


def test_references_name_an_image_or_one_of_its_frames() -> None:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = "1.2", "1.3"
    whole, frame = reference_to(image), reference_to(image, 4)
    assert (whole.ReferencedSOPClassUID, whole.ReferencedSOPInstanceUID) == ("1.2", "1.3")
    assert "ReferencedFrameNumber" not in whole and frame.ReferencedFrameNumber == 4


def test_sides_are_those_of_the_standard() -> None:
    table = load_label_table("brain").by_name
    left, right, middle = (side_of(table[n]) for n in ("left thalamus", "right thalamus", "brain-stem"))
    assert (left.value, right.value, middle) == ("7771000", "24028007", None)
