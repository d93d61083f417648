"""What a bundle is not for is refused before inference, or marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.bundles import Gate, find_bundle
from medvit.bundles.gate import FORCED, Scope, blankness, forced_reason, mismatches
from medvit.errors import StudyError
from medvit.studies.study import Grid, LoadedStudy, Series, Study

BRAIN, CT, MR, ACROSS, IN_PLANE = (
    find_bundle(name).path
    for name in ("segformer3d_brain", "rat_ct_denoise", "rat_mr_denoise", "hat_mr_superres", "hat_mr_inplane")
)


def study(
    values: np.ndarray | None = None,
    shape: tuple[int, int, int] = (24, 28, 26),
    spacing: float | tuple[float, ...] = 7.0,
    **facts: Any,
) -> Study:
    """A study that has been read; magnitudes such as MR has them unless `values` are given."""
    noise = np.random.default_rng(0).uniform(0, 1000, shape) if values is None else values
    affine = np.diag([*np.broadcast_to(spacing, 3), 1.0])
    image = MetaTensor(torch.from_numpy(noise.astype(np.float32))[None], affine=torch.from_numpy(affine))
    series = Series((Path("scan.nii.gz"),), "dicom" if facts else "nifti", facts)
    return LoadedStudy("scan", (series,), image=image, grid=Grid(noise.shape, affine))


def body_ct() -> np.ndarray:
    """Soft tissue in air, in Hounsfield units."""
    values = np.full((24, 28, 26), -1000.0)
    values[6:18, 6:22, 6:20] = np.random.default_rng(0).normal(40, 20, (12, 16, 14))
    return values


def stripped_head_ct() -> np.ndarray:
    """Brain and a little bone, with zero around it."""
    values = np.zeros((24, 28, 26))
    values[6:18, 6:22, 6:20] = np.random.default_rng(0).normal(37, 6, (12, 16, 14))
    values[6, 6:22, 6] = 380
    return values


def test_a_head_in_mr_passes_without_a_note() -> None:
    given = study()
    assert Gate(BRAIN)(given).notes == given.notes
    assert Gate(BRAIN)(study(modality="MR", body_part="HEAD")).notes == ()


@pytest.mark.parametrize(
    ("bundle", "wrong", "words"),
    [
        (BRAIN, study(modality="CT", body_part="HEAD"), "is CT, and the bundle is for MR"),
        (BRAIN, study(modality="MR", body_part="ABDOMEN"), "has ABDOMEN as its body part"),
        (BRAIN, study(modality="MR", series_description="T2 TSE Knee sag"), "has KNEE as its description"),
        (BRAIN, study(body_ct()), "values of a CT in Hounsfield units"),
        (BRAIN, study(stripped_head_ct()), "values of a CT in Hounsfield units"),
        (BRAIN, study(spacing=30.0, shape=(8, 8, 8)), "voxels of 30 mm"),
        (BRAIN, study(spacing=9.0, shape=(120, 20, 20)), "is 1080 mm long, and a head is scanned within 340"),
        (BRAIN, study(spacing=1.0, shape=(180, 180, 1)), "is a single slice, and the bundle needs a volume"),
        (MR, study(spacing=(6, 3, 3)), "pixels of 3 mm, and the bundle needs 2.5 mm or less"),
        (
            IN_PLANE,
            study(spacing=(4, 1, 1)),
            "pixels of 1 mm, and the bundle makes those of 1.2 mm or more finer",
        ),
        (IN_PLANE, study(spacing=(3, 1, 3)), "pixels of 3 mm, and the bundle needs 2.6 mm or less"),
        (ACROSS, study(spacing=1.0), "voxels of 1 mm, and the bundle makes those of 1.5 mm or more finer"),
        (CT, study(), "not a CT in Hounsfield units"),
        (CT, study(modality="MR"), "is MR, and the bundle is for CT"),
    ],
)
def test_a_known_mismatch_is_refused_in_one_sentence(bundle: Path, wrong: Study, words: str) -> None:
    with pytest.raises(StudyError, match=words) as error:
        Gate(bundle)(wrong)
    assert error.value.code == "outside-scope"
    assert "--force, in Python force=True" in str(error.value)
    forced = Gate(bundle, force=True)(wrong)
    assert [note.startswith(FORCED) for note in forced.notes] == [True]
    assert words in forced_reason(forced)
    # A study that was forced through is not asked again.
    assert Gate(bundle)(forced) is forced


def spots(n: int, background: float = 0.0) -> np.ndarray:
    """A volume of 27,000 voxels, `n` of which differ from the background."""
    values = np.full(27_000, background)
    values[:n] = np.random.default_rng(0).uniform(100, 200, n)
    return values.reshape(30, 30, 30)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (spots(0), "every voxel has the value 0"),
        (spots(0, 7), "every voxel has the value 7"),
        (spots(20), "nearly every voxel has the value 0"),
        (spots(26, -1024), "nearly every voxel has the value -1024"),
    ],
)
def test_a_blank_image_is_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(StudyError, match=f"shows nothing: {words};") as error:
        Gate(BRAIN)(study(values))
    assert error.value.code == "blank"
    assert "export it again" in str(error.value)
    assert "shows nothing" in forced_reason(Gate(BRAIN, force=True)(study(values)))


def test_a_small_object_in_a_wide_field_is_not_blank() -> None:
    assert Gate(BRAIN)(study(spots(270))).notes == ()
    assert (
        blankness(np.stack([spots(270), spots(0)]))
        == "shows nothing: every voxel of channel 2 has the value 0"
    )


@pytest.mark.parametrize("spacing", [(1, 6, 1), (2.4, 2.4, 2.4)])
def test_thick_slices_of_fine_pixels_pass_whatever_their_direction(spacing: tuple[float, ...]) -> None:
    assert Gate(MR)(study(spacing=spacing)).notes == ()


def test_what_can_be_made_finer_passes() -> None:
    assert Gate(ACROSS)(study(spacing=(1, 4, 1))).notes == ()
    assert (
        Gate(IN_PLANE)(study(spacing=(2, 2, 1))).notes == Gate(IN_PLANE)(study(spacing=(6, 2, 2))).notes == ()
    )


def test_a_ct_passes_the_gate_of_a_ct_bundle() -> None:
    assert Gate(CT)(study(body_ct())).notes == ()


def test_what_is_not_stated_is_not_checked() -> None:
    assert list(mismatches(Scope(), study(body_ct(), spacing=99.0, body_part="KNEE"))) == []
    # A description that names the head beside another part is no mismatch.
    described = study(modality="MR", series_description="head and neck")
    assert list(mismatches(Scope(("MR",), ("HEAD",)), described)) == []


def test_a_thin_volume_is_noted() -> None:
    (note,) = Gate(BRAIN)(study(shape=(24, 28, 4))).notes
    assert note == "The field of view is only 28 mm in one direction, which shows a part of the head."


def test_headers_suffice_for_what_headers_tell(tmp_path: Path) -> None:
    """The voxels of the wrong modality are not read first."""
    series = Series((tmp_path / "none.dcm",), "dicom", {"modality": "CT"})
    with pytest.raises(StudyError, match="is CT"):
        Gate(BRAIN)(Study("scan", (series,)))
