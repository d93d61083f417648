from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless

from medvit.errors import MedvitError, StudyError
from medvit.studies import find_studies
from medvit.studies.dicom_out import can_write_dicom, read_source, save_dicom, segmentation, structure_set
from medvit.studies.dicom_out import seg as seg_module
from medvit.studies.study import Grid
from tests.studies.dicom_out.synthetic import write_series


def read_on_grid(path: Path, grid: Grid) -> np.ndarray:
    """The label map of a SEG file in the index order of `grid`, through highdicom's own geometry."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ grid.affine
    # highdicom indexes (slice, row, column).
    want = hd.VolumeGeometry(lps[:, [2, 1, 0, 3]], grid.shape[::-1], "PATIENT", volume.frame_of_reference_uid)
    return volume.match_geometry(want, tol=1e-3).array.transpose(2, 1, 0)


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
def test_voxels_come_back_where_they_were(encoding, series, label_map, table, algorithm, tmp_path):
    paths, grid = series
    result = segmentation(label_map, grid, read_source(paths), table, algorithm, encoding=encoding)
    save_dicom(result, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_on_grid(tmp_path / "seg.dcm", grid), label_map)


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
def test_names_numbers_codes_and_colours_survive(encoding, series, label_map, table, algorithm, tmp_path):
    paths, grid = series
    result = segmentation(label_map, grid, read_source(paths), table, algorithm, encoding=encoding)
    save_dicom(result, tmp_path / "seg.dcm")
    read = hd.seg.segread(tmp_path / "seg.dcm")
    assert list(read.segment_numbers) == [1, 2, 3, 4]
    for structure in table:
        segment = read.get_segment_description(structure.value)
        assert segment.segment_label == structure.name
        assert segment.segmented_property_type.value == structure.code.value
        assert segment.segmented_property_category.value == structure.category.value
        color = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(color.to_rgb(clip=True), structure.color, atol=1)
        assert segment.algorithm_identification[0].AlgorithmVersion == "1.2.0"
    left = read.get_segment_description(1).segmented_property_type
    assert left.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


def test_frames_refer_to_the_image_at_their_position(series, label_map, table, algorithm):
    paths, grid = series
    result = segmentation(label_map, grid, read_source(paths), table, algorithm, encoding="binary")
    position_of = {i.SOPInstanceUID: i.ImagePositionPatient for i in map(pydicom.dcmread, paths)}
    for frame in result.PerFrameFunctionalGroupsSequence:
        referenced = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == position_of[referenced]
    assert result.ReferencedSeriesSequence[0].SeriesInstanceUID == pydicom.dcmread(paths[0]).SeriesInstanceUID


def test_order_of_files_does_not_matter(series, label_map, table, algorithm, tmp_path):
    paths, grid = series
    result = segmentation(label_map, grid, read_source(paths[::-1]), table, algorithm)
    save_dicom(result, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_on_grid(tmp_path / "seg.dcm", grid), label_map)


def test_stack_indexed_from_its_other_end(series, label_map, table, algorithm, tmp_path):
    paths, grid = series
    flip = np.diag([1.0, 1, -1, 1])
    flip[2, 3] = grid.shape[2] - 1
    flipped = Grid(grid.shape, grid.affine @ flip)
    result = segmentation(label_map[:, :, ::-1], flipped, read_source(paths), table, algorithm)
    save_dicom(result, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_on_grid(tmp_path / "seg.dcm", grid), label_map)


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
def test_multi_frame_source_in_shuffled_frame_order(encoding, tmp_path, label_map, table, algorithm):
    paths, grid = write_series(tmp_path / "single")
    image = multi_frame(paths, order=[3, 0, 5, 1, 4, 2])
    result = segmentation(label_map, grid, read_source([image]), table, algorithm, encoding=encoding)
    save_dicom(result, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_on_grid(tmp_path / "seg.dcm", grid), label_map)
    for frame in result.PerFrameFunctionalGroupsSequence:
        number = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        source = image.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient


def multi_frame(paths: list[Path], order: list[int]) -> pydicom.Dataset:
    image = hd.legacy.LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(p) for p in paths], hd.UID(), 5, hd.UID(), 1
    )
    frames = image.pixel_array
    groups = list(image.PerFrameFunctionalGroupsSequence)
    image.PixelData = np.ascontiguousarray(frames[order]).tobytes()
    image.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    return image


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
def test_empty_map_is_a_result(encoding, series, table, algorithm, tmp_path):
    paths, grid = series
    empty = np.zeros(grid.shape, np.uint8)
    save_dicom(
        segmentation(empty, grid, read_source(paths), table, algorithm, encoding=encoding),
        tmp_path / "seg.dcm",
    )
    read = hd.seg.segread(tmp_path / "seg.dcm")
    assert list(read.segment_numbers) == [1, 2, 3, 4]
    assert not read.get_volume(combine_segments=True).array.any()


@pytest.mark.parametrize("kept", [1, 4])
def test_a_structure_that_is_absent_has_a_frame_of_background(
    kept, series, label_map, table, algorithm, tmp_path
):
    paths, grid = series
    some = np.where(label_map == kept, label_map, 0)
    result = segmentation(some, grid, read_source(paths), table, algorithm, encoding="binary")
    save_dicom(result, tmp_path / "seg.dcm")
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    frames = np.atleast_3d(read.pixel_array)
    groups = read.PerFrameFunctionalGroupsSequence
    segments = [g.SegmentIdentificationSequence[0].ReferencedSegmentNumber for g in groups]
    assert set(segments) == {1, 2, 3, 4} and len(frames) == len(groups) == read.NumberOfFrames
    for number in {1, 2, 3, 4} - {kept}:
        (frame,) = (frame for frame, of in zip(frames, segments, strict=True) if of == number)
        assert not frame.any()
    indices = [tuple(g.FrameContentSequence[0].DimensionIndexValues) for g in groups]
    assert len(set(indices)) == len(indices)
    np.testing.assert_array_equal(read_on_grid(tmp_path / "seg.dcm", grid), some)
    assert result.get_volume(combine_segments=True).array.sum() == some.sum()


def test_many_frames_become_a_labelmap(monkeypatch, series, label_map, table, algorithm):
    paths, grid = series
    frames = sum(len(np.unique(label_map[:, :, k])) - 1 for k in range(grid.shape[2]))
    for limit, kind in ((frames, "BINARY"), (frames - 1, "LABELMAP")):
        monkeypatch.setattr(seg_module, "_MAX_BINARY_FRAMES", limit)
        result = segmentation(label_map, grid, read_source(paths), table, algorithm)
        assert result.SegmentationType == kind
    assert result.file_meta.TransferSyntaxUID == JPEGLSLossless


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_source_without_uids_is_refused_and_none_are_invented(keyword, tmp_path):
    paths, _ = write_series(tmp_path / "a", **{keyword: ""})
    with pytest.raises(StudyError, match=f"has no {keyword}"):
        read_source(paths)
    (study,) = find_studies(tmp_path / "a").studies
    assert can_write_dicom(study) == f"the source has no {keyword}, so results could not be stored with it"


def test_what_can_be_written_is_known_from_headers(series, tmp_path):
    (study,) = find_studies(series[0][0].parent).studies
    assert can_write_dicom(study) == ""
    mosaic = replace(study.series[0], facts={"image_type": ("ORIGINAL", "PRIMARY", "M", "MOSAIC")})
    assert "mosaic" in can_write_dicom(replace(study, series=(mosaic,)))
    assert "not come as DICOM" in can_write_dicom(replace(study, series=(replace(mosaic, format="nifti"),)))


def test_instance_uids_from_the_file_meta_information(tmp_path, label_map, table, algorithm):
    paths, grid = write_series(tmp_path / "a")
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in paths}
    images = [pydicom.dcmread(p) for p in paths]
    for image in images:
        image.SOPInstanceUID, image.SOPClassUID = "", ""
    source = read_source(images)
    assert {i.SOPInstanceUID for i in source.images} == uids
    assert segmentation(label_map, grid, source, table, algorithm).StudyInstanceUID


@pytest.mark.parametrize("name", ["Müller^Jörg", "山田^太郎", "NoCaret"])
def test_names_in_any_script_and_no_warning_shows_them(
    name, tmp_path, label_map, table, algorithm, recwarn, caplog
):
    charset = {"M": "ISO_IR 100", "山": "ISO_IR 192", "N": "ISO_IR 6"}[name[0]]
    paths, grid = write_series(tmp_path / "a", SpecificCharacterSet=charset, PatientName=name)
    recwarn.clear()
    save_dicom(segmentation(label_map, grid, read_source(paths), table, algorithm), tmp_path / "seg.dcm")
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == name
    assert not [w for w in recwarn if name in str(w.message)]
    assert name not in caplog.text


def test_radiograph_without_a_position(tmp_path, table, algorithm):
    paths, _ = write_series(tmp_path / "a", (20, 16, 1))
    image = pydicom.dcmread(paths[0])
    image.SOPClassUID, image.Modality = pydicom.uid.DigitalXRayImageStorageForPresentation, "DX"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        del image[keyword]
    grid = Grid((20, 16, 1), np.eye(4))
    label_map = np.zeros(grid.shape, np.uint8)
    label_map[3:7, 4:12] = 3
    result = segmentation(label_map, grid, read_source([image]), table, algorithm, encoding="labelmap")
    np.testing.assert_array_equal(result.pixel_array.squeeze(), label_map[:, :, 0].T)
    with pytest.raises(MedvitError, match="no place in a patient"):
        structure_set(label_map, grid, read_source([image]), table, algorithm)


def test_other_grid_is_refused(series, label_map, table, algorithm):
    paths, grid = series
    shift = np.eye(4)
    shift[2, 3] = 0.5
    for other in (
        Grid(grid.shape, grid.affine @ shift),
        Grid(grid.shape, grid.affine * [[1.01], [1], [1], [1]]),
    ):
        with pytest.raises(StudyError, match="no image at slice 0") as error:
            segmentation(label_map, other, read_source(paths), table, algorithm)
        assert error.value.path in paths


def test_two_images_at_one_place_are_refused(series, label_map, table, algorithm):
    paths, grid = series
    twin = pydicom.dcmread(paths[0])
    twin.SOPInstanceUID = hd.UID()
    with pytest.raises(StudyError, match="2 images at slice"):
        segmentation(label_map, grid, read_source([*paths, twin]), table, algorithm)


def test_same_file_twice_is_one_image(series):
    paths, _ = series
    assert len(read_source([*paths, paths[0]]).images) == len(paths)


def test_bad_input_is_named(series, label_map, table, algorithm, tmp_path):
    paths, grid = series
    source = read_source(paths)
    with pytest.raises(MedvitError, match="values from 0 to 5"):
        segmentation(np.where(label_map == 4, 5, label_map), grid, source, table, algorithm)
    with pytest.raises(MedvitError, match="must be equal"):
        segmentation(label_map[:-1], grid, source, table, algorithm)
    with pytest.raises(MedvitError, match="holds integers"):
        segmentation(label_map.astype(np.float32), grid, source, table, algorithm)
    other, _ = write_series(tmp_path / "other")
    with pytest.raises(StudyError, match="more than one series"):
        read_source([*paths, *other])
    (tmp_path / "note.txt").write_text("not DICOM")
    with pytest.raises(StudyError, match=r"note\.txt.*not a DICOM image"):
        read_source([tmp_path / "note.txt"])
    with pytest.raises(StudyError, match="no DICOM source"):
        read_source([])


def test_given_datasets_are_not_changed(series, label_map, table, algorithm):
    images = [pydicom.dcmread(p) for p in series[0]]
    before = [i.to_json() for i in images]
    segmentation(label_map, series[1], read_source(images), replace(table, name="other"), algorithm)
    assert [i.to_json() for i in images] == before
