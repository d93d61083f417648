from __future__ import annotations

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medvit.errors import MedvitError
from medvit.studies.dicom_out import measurement_report, read_source, save_dicom, segmentation


@pytest.fixture
def seg(series, label_map, table, algorithm):
    return segmentation(label_map, series[1], read_source(series[0]), table, algorithm)


def test_volumes_are_voxels_times_determinant(series, label_map, table, algorithm, seg, tmp_path):
    paths, grid = series
    volumes = {
        s.name: np.count_nonzero(label_map == s.value) * abs(np.linalg.det(grid.affine[:3, :3])) / 1000
        for s in table
    }
    report = measurement_report(volumes, seg, read_source(paths), table, algorithm)
    save_dicom(report, tmp_path / "sr.dcm")
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == list(volumes)
    for group, structure in zip(groups, table, strict=True):
        (volume,) = group.get_measurements()
        assert volume.name.value == "118565006" and volume.unit.value == "mL"
        assert volume.value == pytest.approx(volumes[structure.name], rel=1e-5)
        assert group.finding_type.value == structure.code.value
        sides = [site.laterality.meaning for site in group.finding_sites if site.laterality]
        assert sides == ([structure.side.title()] if structure.side else [])
        assert group.referenced_segment.referenced_segment_numbers == [structure.value]


def test_refers_to_the_segmentation_and_names_the_algorithm(series, table, algorithm, seg, tmp_path):
    report = measurement_report({"spleen": 2.5}, seg, read_source(series[0]), table, algorithm)
    save_dicom(report, tmp_path / "sr.dcm")
    (group,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert group.referenced_segment.referenced_segment_numbers == [table.by_name["spleen"].value]
    text = pydicom.dcmread(tmp_path / "sr.dcm").to_json()
    assert algorithm.name in text and algorithm.version in text and algorithm.weights in text
    evidence = {
        r.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series_item in study.ReferencedSeriesSequence
        for r in series_item.ReferencedSOPSequence
    }
    assert seg.SOPInstanceUID in evidence
    assert (report.PatientName, report.StudyInstanceUID) == ("Doe^Jane", seg.StudyInstanceUID)


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ({}, "no volume"),
        ({"heart": 1.0}, "no structure named heart"),
        ({"liver": -1.0}, "liver is negative"),
        ({"liver": float("nan")}, "liver is negative or not a number"),
    ],
)
def test_bad_volumes_are_named(volumes, message, series, table, algorithm, seg):
    with pytest.raises(MedvitError, match=message):
        measurement_report(volumes, seg, read_source(series[0]), table, algorithm)


def test_the_verdict_stands_in_the_report(series, table, algorithm, seg, tmp_path):
    verdict = "red: The brain is cut by the field of view."
    report = measurement_report(
        {"spleen": 2.5}, seg, read_source(series[0]), table, algorithm, verdict=verdict
    )
    save_dicom(report, tmp_path / "sr.dcm")
    read = hd.sr.srread(tmp_path / "sr.dcm")
    said = [
        item.TextValue
        for item in read.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "QUALITY_CONTROL"
    ]
    assert said == [verdict]
    assert len(read.content.get_volumetric_roi_measurement_groups()) == 1
