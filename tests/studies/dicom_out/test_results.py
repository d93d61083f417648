from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from medvit.errors import MedvitError
from medvit.studies.dicom import read, scan
from medvit.studies.dicom.seg import read_segmentation
from medvit.studies.dicom_out import (
    derived_series,
    read_source,
    save_dicom,
    write_segmentation_results,
)
from tests.studies.dicom.encoding import save_as
from tests.studies.dicom.synthetic import made_up
from tests.studies.dicom_out.test_seg import read_on_grid


def test_what_the_reader_gives_can_be_written(series, table, algorithm, tmp_path):
    found = scan(series[0]).series[0]
    image, grid, _ = read(found)
    label_map = np.zeros(grid.shape, np.uint8)
    label_map[image > 700] = 2
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    volumes = {"right thalamus": float((label_map == 2).sum() * grid.voxel_volume / 1000)}
    paths = write_segmentation_results(
        tmp_path / "out", found, label_map, grid, table, volumes, algorithm, pdf=tmp_path / "report.pdf"
    )
    assert [p.name for p in paths] == ["seg.dcm", "sr.dcm", "report.dcm"]
    assert [pydicom.dcmread(p).Modality for p in paths] == ["SEG", "SR", "DOC"]
    np.testing.assert_array_equal(read_on_grid(paths[0], grid), label_map)


def test_one_wrong_object_leaves_none_behind(series, label_map, table, algorithm, tmp_path):
    (tmp_path / "report.pdf").write_text("not a PDF")
    with pytest.raises(MedvitError, match=r"report\.pdf"):
        write_segmentation_results(
            tmp_path / "out",
            scan(series[0]).series[0],
            label_map,
            series[1],
            table,
            {"liver": 1.0},
            algorithm,
            pdf=tmp_path / "report.pdf",
        )
    assert not (tmp_path / "out").exists()


def test_compressed_series_comes_back_voxel_for_voxel(table, algorithm, tmp_path):
    for k, image in enumerate(made_up().datasets()):
        save_as(image, tmp_path / "in" / f"IM{k}", "j2k_lossless")
    found = scan(sorted((tmp_path / "in").iterdir())).series[0]
    image, grid, _ = read(found)
    label_map = (np.abs(image) % (len(table) + 1)).astype(np.uint8)
    (seg, _) = write_segmentation_results(
        tmp_path, found, label_map, grid, table, {"liver": 1.0}, algorithm, encoding="labelmap"
    )
    np.testing.assert_array_equal(read_on_grid(seg, grid), label_map)
    derived = derived_series(image, grid, read_source(found.paths), algorithm, description="denoised")
    for k, result in enumerate(derived):
        save_dicom(result, tmp_path / "derived" / f"{k}.dcm")
    again, its_grid, _ = read(scan(sorted((tmp_path / "derived").iterdir())).series[0])
    np.testing.assert_array_equal(again, image)
    assert its_grid.matches(grid)


@pytest.mark.parametrize(("encoding", "kind"), [("binary", "BINARY"), ("labelmap", "LABELMAP")])
def test_kind_of_segmentation_and_contours_on_request(
    encoding, kind, series, label_map, table, algorithm, tmp_path
):
    found, volumes = scan(series[0]).series[0], {"liver": 1.0}
    more = {"encoding": encoding, "rtstruct": True, "verdict": "amber: small"}
    paths = write_segmentation_results(
        tmp_path / "out", found, label_map, series[1], table, volumes, algorithm, **more
    )
    assert [p.name for p in paths] == ["seg.dcm", "sr.dcm", "rtstruct.dcm"]
    assert pydicom.dcmread(paths[0]).SegmentationType == kind
    assert "amber: small" in pydicom.dcmread(paths[1]).to_json()
    empty = np.zeros_like(label_map)
    paths = write_segmentation_results(
        tmp_path / "empty", found, empty, series[1], table, volumes, algorithm, **more
    )
    assert [p.name for p in paths] == ["seg.dcm", "sr.dcm"]


def test_structures_that_such_a_study_cannot_show_are_left_out(series, label_map, table, algorithm, tmp_path):
    sides = {"left thalamus": "sides", "right thalamus": "sides", "liver": "no sides"}
    grouped = replace(table, structures=tuple(replace(s, group=sides.get(s.name, "")) for s in table))
    turned = np.array([0, 2, 0, 4, 4], np.uint8)[label_map]  # right thalamus and spleen
    found, volumes = scan(series[0]).series[0], {"right thalamus": 1.5, "spleen": 2.5}
    paths = write_segmentation_results(
        tmp_path / "out", found, turned, series[1], grouped, volumes, algorithm, rtstruct=True
    )
    seg = read_segmentation(paths[0])
    assert [s.label for s in seg.segments] == ["left thalamus", "right thalamus", "spleen"]
    numbers = read_on_grid(paths[0], series[1])
    np.testing.assert_array_equal(numbers, np.array([0, 2, 0, 3, 3], np.uint8)[label_map])
    measured = pydicom.dcmread(paths[1])
    referenced = {e.value for e in measured.iterall() if e.keyword == "ReferencedSegmentNumber"}
    assert referenced == {2, 3}
    rois = pydicom.dcmread(paths[2]).StructureSetROISequence
    assert [roi.ROIName for roi in rois] == ["right thalamus", "spleen"]
