"""Planes become a volume by their positions alone: sorted, without copies, at even steps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.studies.dicom.headers import read_header
from medvit.studies.dicom.planes import Plane, single_plane
from medvit.studies.dicom.stacking import ranks, stack
from tests.studies.dicom.hazards import write_all
from tests.studies.dicom.synthetic import made_up


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> list[Plane]:
    """Ten planes 2 mm apart, from the head downwards."""
    folder = tmp_path_factory.mktemp("ct")
    write_all(made_up().datasets(), folder)
    return [single_plane(read_header(path)) for path in sorted(folder.iterdir())]


def moved(plane: Plane, *mm: float) -> Plane:
    return replace(plane, position=plane.position + np.array(mm))


def test_planes_are_sorted_along_their_normal_whatever_their_order(planes: list[Plane]) -> None:
    mixed = [planes[k] for k in (3, 9, 0, 5, 1, 7, 2, 8, 4, 6)]
    found = stack(mixed)
    assert [plane.header.path.name for plane in found.planes] == [f"IM{k:04d}.dcm" for k in range(9, -1, -1)]
    assert found.grid.shape == (40, 36, 10)
    # LPS to RAS: x and y change their sign; the first plane is the lowest.
    np.testing.assert_allclose(found.grid.affine[:3, 3], [15.5, 170.25, 748.5])
    np.testing.assert_allclose(np.diag(found.grid.affine), [-0.9765625, -0.9765625, 2, 1])
    assert found.shear == (0, 0) and not found.tilted and found.notes == ()


def test_equal_places_have_equal_ranks(planes: list[Plane]) -> None:
    assert ranks([planes[2], planes[0], planes[2], planes[1]]).tolist() == [0, 2, 0, 1]


def test_copies_are_dropped_and_other_images_at_one_place_refused(
    planes: list[Plane], tmp_path: Path
) -> None:
    copy = single_plane(read_header(Path(shutil.copy(planes[4].header.path, tmp_path))))
    assert stack([*planes, copy]).notes == ("Left out 1 copy of another file.",)
    with pytest.raises(StudyError, match="differ but lie at one place"):
        stack([*planes, replace(planes[5], position=planes[4].position)])


def test_missing_and_uneven_slices_are_told_apart(planes: list[Plane]) -> None:
    with pytest.raises(StudyError, match=r"2 of the slices between IM0005\.dcm and IM0002\.dcm are missing"):
        stack([*planes[:3], *planes[5:]])
    with pytest.raises(StudyError, match=r"slices are 2 mm apart, but 2\.5 mm between") as error:
        stack([*planes[:4], moved(planes[4], 0, 0, 0.5), *planes[5:]])
    assert error.value.code == "dicom-uneven-spacing"


def test_a_plane_beside_the_line_of_the_others_is_refused(planes: list[Plane]) -> None:
    with pytest.raises(StudyError, match="out of line with the others"):
        stack([*planes[:4], moved(planes[4], 3, 0, 0), *planes[5:]])


def test_rounded_positions_are_taken_as_even_and_noted(planes: list[Plane]) -> None:
    shift = [0.04 * (-1) ** k for k in range(10)]
    (note,) = stack([moved(plane, 0, 0, mm) for plane, mm in zip(planes, shift, strict=True)]).notes
    assert "off an even grid" in note


def test_a_tilted_gantry_is_told_by_its_shear(planes: list[Plane]) -> None:
    found = stack([moved(plane, 0, 0.5 * k, 0) for k, plane in enumerate(planes)])
    assert found.tilted
    np.testing.assert_allclose(found.shear, (0, -0.5 / 0.9765625))


def test_a_single_slice_needs_a_thickness(planes: list[Plane]) -> None:
    assert stack(planes[:1]).grid.spacing[2] == pytest.approx(3)
    with pytest.raises(StudyError, match="without a thickness has no place"):
        stack([replace(planes[0], thickness=None)])
