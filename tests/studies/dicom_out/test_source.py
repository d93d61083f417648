"""Source series: headers that results can refer to, and the frame that each slice of a result lies on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from medvit.errors import StudyError
from medvit.studies import Series, Study
from medvit.studies.dicom_out import can_write_dicom, read_source
from medvit.studies.study import Grid
from tests.studies.dicom_out.synthetic import OBLIQUE, write_series


@pytest.mark.parametrize("flip", [False, True])
def test_each_slice_lies_on_the_frame_at_its_position(flip: bool, tmp_path: Path) -> None:
    paths, grid = write_series(tmp_path / "ct", orientation=OBLIQUE)
    source = read_source(paths)
    if flip:  # slices of a result may run the other way
        affine = grid.affine.copy()
        affine[:3, 3] += 5 * affine[:3, 2]
        affine[:3, 2] *= -1
        grid = Grid(grid.shape, affine)
    frames = source.frames_of(grid)
    assert len(frames) == 6 and len({f.image.SOPInstanceUID for f in frames}) == 6
    for k, frame in enumerate(frames):
        x, y, z = (grid.affine @ [0, 0, k, 1])[:3]
        assert [float(v) for v in frame.image.ImagePositionPatient] == pytest.approx([-x, -y, z], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: Grid((g.shape[0] + 1, *g.shape[1:]), g.affine), "no image of 21 x 16 pixels"),
        (lambda g: Grid((*g.shape[:2], 7), g.affine), "no image at slice 6"),
        (lambda g: Grid(g.shape, g.affine @ np.diag([1.0, 1.0, 0.5, 1.0])), "no image at slice 1"),
    ],
)
def test_a_result_on_another_grid_is_refused(change, said: str, tmp_path: Path) -> None:
    paths, grid = write_series(tmp_path / "ct")
    with pytest.raises(StudyError, match=f"the source series has {said}") as refusal:
        read_source(paths).frames_of(change(grid))
    assert refusal.value.code == "dicom-out-other-grid" and refusal.value.path == paths[0]


def test_empty_attributes_are_completed_and_impossible_ones_left_out(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "ct", PatientSex="X", StudyDate="20201399")
    header = pydicom.dcmread(paths[0])
    del header.AccessionNumber
    given = header.copy()
    first = read_source([header]).first
    assert (first.PatientSex, first.StudyDate, first.AccessionNumber) == ("", "", "")
    assert first.PatientName == "Doe^Jane" and first.SpecificCharacterSet == "ISO_IR 192"
    assert "PixelData" not in first and header == given, "the header that was given is not changed"


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "ct")
    assert len(read_source([*paths, paths[2]]).images) == len(paths)


def test_what_no_result_can_refer_to_is_refused(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "a")
    others, _ = write_series(tmp_path / "b", seed=1)
    (tmp_path / "notes.txt").write_text("nothing")
    without = pydicom.dcmread(paths[0])
    del without.StudyInstanceUID
    for files, code in (
        ([], "dicom-out-no-source"),
        ([paths[0], others[0]], "dicom-out-many-series"),
        ([tmp_path / "notes.txt"], "dicom-no-sop-class"),
        ([tmp_path / "missing.dcm"], "dicom-unreadable"),
        ([without], "dicom-out-no-uid"),
    ):
        with pytest.raises(StudyError) as refusal:
            read_source(files)
        assert refusal.value.code == code


def test_why_a_study_gets_no_dicom_results(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "ct")

    def why(**facts: object) -> str:
        return can_write_dicom(Study("a", (Series(tuple(paths), "dicom", facts),)))

    assert why() == ""
    assert "mosaic" in why(image_type=("ORIGINAL", "PRIMARY", "MOSAIC"))
    assert (
        can_write_dicom(Study("a", (Series((Path("a.nii"),), "nifti"),))) == "the study did not come as DICOM"
    )


def test_frames_take_their_own_place_before_the_shared_one() -> None:
    def item(**attributes: object) -> Dataset:
        made = Dataset()
        for keyword, value in attributes.items():
            setattr(made, keyword, value)
        return made

    def position(z: float) -> list[Dataset]:
        return [item(ImagePositionPatient=[1, 2, z])]

    shared = item(
        PlanePositionSequence=position(0),
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[3, 2])],
    )
    image = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", SOPInstanceUID="1.2.3", StudyInstanceUID="1.2.4",
        SeriesInstanceUID="1.2.5", Rows=4, Columns=5, NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[item(), item(PlanePositionSequence=position(7))],
    )  # fmt: skip
    first, second = read_source([image]).frames
    # Columns are 2 mm apart and rows 3 mm; x and y change their sign from LPS to RAS.
    np.testing.assert_allclose(first.affine, [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(second.affine[:3, 3], [-1, -2, 7])
    assert (first.number, second.number, first.shape) == (1, 2, (5, 4))
