from __future__ import annotations

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

from medvit.errors import MedvitError, StudyError
from medvit.studies import find_studies, read_study
from medvit.studies.dicom_out import derived_series, estimated_series, read_source, save_dicom
from medvit.studies.grids import place
from medvit.studies.study import Grid
from tests.studies.dicom_out.synthetic import values_of, write_series
from tests.studies.dicom_out.test_seg import multi_frame


def write_derived(image, grid, source, algorithm, folder):
    paths = []
    for k, result in enumerate(derived_series(image, grid, source, algorithm, description="denoised")):
        paths.append(folder / f"{k}.dcm")
        save_dicom(result, paths[-1])
    return paths


@pytest.mark.parametrize(
    ("modality", "scale", "slope"),
    [("CT", 1.0, 1.0), ("CT", 60.0, None), ("MR", 1.0, None), ("MR", 1e-3, None)],
)
def test_values_come_back_in_the_units_of_the_source(modality, scale, slope, algorithm, tmp_path):
    paths, grid = write_series(tmp_path / "source", modality=modality)
    image = values_of(paths, grid) * scale + 0.25 * scale
    written = write_derived(image, grid, read_source(paths), algorithm, tmp_path / "out")
    read = pydicom.dcmread(written[0])
    step = float(read.get("RescaleSlope", 1))
    assert slope in (None, step)
    assert step <= max(1, 2e-4 * np.abs(image).max())
    np.testing.assert_allclose(values_of(written, grid), image, atol=step * 0.501)
    assert read.SOPClassUID == (CTImageStorage if modality == "CT" else MRImageStorage)


def test_refers_to_its_source_and_says_that_it_is_derived(series, algorithm, tmp_path):
    paths, grid = series
    extra = {"SmallestImagePixelValue": 0, "SeriesDescription": "Head"}
    images = [pydicom.dcmread(p) for p in paths]
    for image in images:
        for keyword, value in extra.items():
            setattr(image, keyword, value)
        image.add_new(0x60003000, "OW", b"\x00\x00")
        image.private_block(0x0011, "MAKER", create=True).add_new(0x01, "LO", "secret")
    written = write_derived(values_of(paths, grid), grid, read_source(images), algorithm, tmp_path / "out")
    by_uid = {i.SOPInstanceUID: i for i in images}
    results = [pydicom.dcmread(p) for p in written]
    assert len({r.SOPInstanceUID for r in results} - set(by_uid)) == len(paths)
    assert len({r.SeriesInstanceUID for r in results}) == 1
    for result in results:
        source = by_uid[result.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert result.ImagePositionPatient == source.ImagePositionPatient
        assert result.ImageType[0] == "DERIVED" and result.ImageType[1:] == source.ImageType[1:]
        assert result.StudyInstanceUID == source.StudyInstanceUID
        assert result.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert result.SeriesDescription == "Head denoised"
        assert "SmallestImagePixelValue" not in result and (0x6000, 0x3000) not in result
        assert not [e for e in result if e.tag.is_private]
    assert results[0].SeriesInstanceUID != images[0].SeriesInstanceUID


def test_multi_frame_source_in_shuffled_frame_order(algorithm, tmp_path):
    paths, grid = write_series(tmp_path / "single")
    source = multi_frame(paths, order=[3, 0, 5, 1, 4, 2])
    image = values_of(paths, grid) + 10.0
    (path,) = write_derived(image, grid, read_source([source]), algorithm, tmp_path / "out")
    read = hd.imread(path)
    assert read.SOPClassUID == source.SOPClassUID and read.NumberOfFrames == grid.shape[2]
    frames = read.get_frames(apply_modality_transform=True)
    for k, group in enumerate(read.PerFrameFunctionalGroupsSequence):
        place = np.array([*group.PlanePositionSequence[0].ImagePositionPatient, 1]) * [-1, -1, 1, 1]
        slice_index = round(float((np.linalg.inv(grid.affine) @ place)[2]))
        np.testing.assert_allclose(frames[k], image[:, :, slice_index].T, atol=1e-6)


@pytest.mark.parametrize("stated", [True, False])
def test_multi_frame_values_with_a_fine_slope(stated, algorithm, tmp_path):
    paths, grid = write_series(tmp_path / "single")
    source = multi_frame(paths, order=list(range(6)))
    if not stated:
        for group in (*source.PerFrameFunctionalGroupsSequence, source.SharedFunctionalGroupsSequence[0]):
            group.pop("PixelValueTransformationSequence", None)
    image = values_of(paths, grid) * 100
    (path,) = write_derived(image, grid, read_source([source]), algorithm, tmp_path / "out")
    frames = hd.imread(path).get_frames(apply_modality_transform=True)
    for k in range(grid.shape[2]):
        place = np.abs(frames - image[:, :, k].T).max(axis=(1, 2))
        assert place.min() < 1e-4 * np.abs(image).max()


def test_image_type_of_one_value_and_colour(tmp_path, algorithm):
    paths, grid = write_series(tmp_path / "source", ImageType="ORIGINAL")
    image = np.zeros(grid.shape)
    result = next(derived_series(image, grid, read_source(paths), algorithm, description="x"))
    assert list(result.ImageType) == ["DERIVED", "PRIMARY"]
    paths, _ = write_series(tmp_path / "colour", PhotometricInterpretation="RGB")
    with pytest.raises(MedvitError, match="in colour"):
        next(derived_series(image, grid, read_source(paths), algorithm, description="x"))


def test_pet_in_suv_says_so(tmp_path, algorithm):
    paths, grid = write_series(tmp_path / "source")
    images = [pydicom.dcmread(p) for p in paths]
    for k, image in enumerate(images):
        image.SOPClassUID, image.Modality = pydicom.uid.PositronEmissionTomographyImageStorage, "PT"
        image.Units, image.RescaleSlope, image.RescaleIntercept = "BQML", 1.5 + k, 0
    source, suv = read_source(images), np.linspace(0, 12.5, np.prod(grid.shape)).reshape(grid.shape)
    with pytest.raises(MedvitError, match="needs the units"):
        next(derived_series(suv, grid, source, algorithm, description="x"))
    results = [*derived_series(suv, grid, source, algorithm, description="x", units="SUVbw")]
    assert {(r.Units, r.SUVType, r.RescaleIntercept) for r in results} == {("GML", "BW", 0)}
    (kept, *_) = derived_series(suv, grid, source, algorithm, description="x", units="Bq/ml")
    assert kept.Units == "BQML" and "SUVType" not in kept


def test_bad_input_is_named(series, algorithm):
    paths, grid = series
    source = read_source(paths)
    image = np.zeros(grid.shape, np.float32)
    with pytest.raises(MedvitError, match="must be equal"):
        next(derived_series(image[1:], grid, source, algorithm, description="x"))
    image[0, 0, 0] = np.nan
    with pytest.raises(MedvitError, match="not finite"):
        next(derived_series(image, grid, source, algorithm, description="x"))
    twin = pydicom.dcmread(paths[0])
    twin.SOPInstanceUID = hd.UID()
    with pytest.raises(StudyError, match="2 images"):
        next(
            derived_series(
                np.zeros(grid.shape), grid, read_source([*paths, twin]), algorithm, description="x"
            )
        )


def _finer(grid: Grid) -> Grid:
    """Three voxels for each slice, with the same extent."""
    affine = grid.affine.copy()
    affine[:3, 2] /= 3
    affine[:3, 3] -= affine[:3, 2]
    return Grid((grid.shape[0], grid.shape[1], 3 * grid.shape[2]), affine)


def test_an_estimate_on_a_finer_grid_has_its_own_places_and_says_what_it_is(algorithm, tmp_path):
    paths, grid = write_series(tmp_path / "source", (20, 18, 5), modality="MR")
    finer = _finer(grid)
    image = np.repeat(values_of(paths, grid), 3, axis=2) + np.arange(15) / 8
    written = []
    for k, result in enumerate(
        estimated_series(image, finer, read_source(paths), algorithm, description="super-resolved")
    ):
        written.append(tmp_path / "out" / f"{k:02}.dcm")
        save_dicom(result, written[-1])
    read = read_study(find_studies(tmp_path / "out").studies[0])
    np.testing.assert_allclose(read.grid.spacing, finer.spacing, atol=1e-6)
    shown = place(read.image[0].numpy(), read.grid, finer)
    assert shown is not None
    np.testing.assert_allclose(shown, image, atol=0.51)
    results = [pydicom.dcmread(p) for p in written]
    sources = [pydicom.dcmread(p) for p in paths]
    assert {r.SeriesInstanceUID for r in results}.isdisjoint({s.SeriesInstanceUID for s in sources})
    assert {r.FrameOfReferenceUID for r in results} == {sources[0].FrameOfReferenceUID}
    for k, result in enumerate(results):
        assert result.ImageType[0] == "DERIVED" and "estimated" in result.SeriesDescription
        assert "estimated" in result.DerivationDescription
        assert float(result.SliceThickness) == pytest.approx(finer.spacing[2])
        origin = result.SourceImageSequence[0].ReferencedSOPInstanceUID
        uids = {s.SOPInstanceUID: np.array(s.ImagePositionPatient, float) for s in sources}
        distance = {u: np.linalg.norm(p - result.ImagePositionPatient) for u, p in uids.items()}
        assert origin == min(distance, key=lambda u: distance[u]), k


def test_an_estimate_beside_multi_frame_images_is_refused(algorithm, tmp_path):
    paths, grid = write_series(tmp_path / "single")
    source, finer = read_source([multi_frame(paths, order=list(range(6)))]), _finer(grid)
    with pytest.raises(StudyError, match="single-frame"):
        next(estimated_series(np.zeros(finer.shape), finer, source, algorithm, description="x"))
