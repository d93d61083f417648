from __future__ import annotations

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon

from medvit.errors import MedvitError
from medvit.studies.dicom_out import read_source, save_dicom, structure_set
from medvit.studies.study import Grid
from tests.studies.dicom_out.synthetic import write_series
from tests.studies.dicom_out.test_seg import multi_frame


def rasterised(result: pydicom.Dataset, grid: Grid) -> np.ndarray:
    """The label map that the contours enclose, by the centres of the voxels (even-odd rule)."""
    label_map = np.zeros(grid.shape, np.uint8)
    centres = np.stack(np.meshgrid(*map(np.arange, grid.shape[:2]), indexing="ij"), -1).reshape(-1, 2)
    to_index = np.linalg.inv(grid.affine)
    for roi in result.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3) * [-1, -1, 1]
            index = points @ to_index[:3, :3].T + to_index[:3, 3]
            k = round(float(index[:, 2].mean()))
            np.testing.assert_allclose(index[:, 2], k, atol=1e-3)
            inside = Polygon(np.vstack([index[:, :2], index[:1, :2]])).contains_points(centres)
            label_map[:, :, k][inside.reshape(grid.shape[:2])] ^= int(roi.ReferencedROINumber)
    return label_map


def test_contours_enclose_the_voxels_of_the_label_map(series, label_map, table, algorithm, tmp_path):
    paths, grid = series
    label_map[4:7, 2:4, 1:3] = 0
    label_map[12, 5, 3] = 0
    label_map[5:9, 10:14, 3:] = 0
    label_map[7, 12, 3:] = 2
    label_map[0, 0, :], label_map[-1, -1, :] = 4, 4
    save_dicom(structure_set(label_map, grid, read_source(paths), table, algorithm), tmp_path / "rt.dcm")
    np.testing.assert_array_equal(rasterised(pydicom.dcmread(tmp_path / "rt.dcm"), grid), label_map)


def test_ragged_shapes_with_many_holes(tmp_path, table, algorithm):
    paths, grid = write_series(tmp_path / "a", (40, 32, 3))
    noise = np.random.default_rng(3).random(grid.shape)
    label_map = (noise > 0.25).astype(np.uint8)
    result = structure_set(label_map, grid, read_source(paths), table, algorithm)
    np.testing.assert_array_equal(rasterised(result, grid), label_map)


def test_multi_frame_source(tmp_path, label_map, table, algorithm):
    paths, grid = write_series(tmp_path / "a")
    image = multi_frame(paths, [3, 0, 5, 1, 4, 2])
    result = structure_set(label_map, grid, read_source([image]), table, algorithm)
    np.testing.assert_array_equal(rasterised(result, grid), label_map)
    for roi in result.ROIContourSequence:
        for contour in roi.ContourSequence:
            group = image.PerFrameFunctionalGroupsSequence[
                contour.ContourImageSequence[0].ReferencedFrameNumber - 1
            ]
            assert contour.ContourData[2] == group.PlanePositionSequence[0].ImagePositionPatient[2]


def code_of(observation: pydicom.Dataset) -> str:
    return observation.RTROIIdentificationCodeSequence[0].CodeValue


def test_names_numbers_codes_and_colours(series, label_map, table, algorithm):
    result = structure_set(label_map, series[1], read_source(series[0]), table, algorithm)
    parts = (result.StructureSetROISequence, result.ROIContourSequence, result.RTROIObservationsSequence)
    found = {
        roi.ROINumber: (roi.ROIName, tuple(drawn.ROIDisplayColor), code_of(seen))
        for roi, drawn, seen in zip(*parts, strict=True)
    }
    assert found == {s.value: (s.name, s.color, s.code.value) for s in table if s.value != 3}


def test_empty_map_is_refused(series, table, algorithm):
    with pytest.raises(MedvitError, match="is empty"):
        structure_set(
            np.zeros(series[1].shape, np.uint8), series[1], read_source(series[0]), table, algorithm
        )
