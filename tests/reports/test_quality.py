"""Quality control: each flag fires on what it is for, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from medvit.reports import (
    Verdict,
    check_quality,
    load_language,
    make_report,
    make_restoration_report,
    measure,
    to_json,
)
from medvit.reports.quality import Flag, traffic_light
from medvit.reports.report import report_restored
from medvit.studies.study import Grid, LoadedStudy, Series
from medvit.transforms.through_plane import refinement_of
from tests.reports.phantom import BRAIN, head, ras_affine

Change = Callable[[np.ndarray, np.ndarray], None]


def codes(flags: tuple[Flag, ...]) -> set[str]:
    return {flag.code for flag in flags}


def value(name: str) -> int:
    return BRAIN.by_name[name].value


def flags_after(change: Change, **settings: Any) -> tuple[Flag, ...]:
    image, labels, grid = head()
    change(image, labels)
    return make_report("x", labels, grid, BRAIN, image, facts={"modality": "MR"}, **settings).flags


def test_a_sound_head_is_green() -> None:
    assert flags_after(lambda image, labels: None) == ()


def erase(image: np.ndarray, labels: np.ndarray) -> None:
    labels[:] = 0


def lose_a_putamen(image: np.ndarray, labels: np.ndarray) -> None:
    labels[labels == value("left putamen")] = 0


def grow_a_ventricle(image: np.ndarray, labels: np.ndarray) -> None:
    labels[40:55, 20:50, 30:55] = value("right lateral ventricle")


def scatter_a_thalamus(image: np.ndarray, labels: np.ndarray) -> None:
    labels[2:6, 2:6, 2:6] = value("left thalamus")


def reach_the_edge(image: np.ndarray, labels: np.ndarray) -> None:
    labels[29:31, 29:31, :10] = value("brain-stem")


def fill_the_edge(image: np.ndarray, labels: np.ndarray) -> None:
    labels[20:40, 30:50, :2] = value("brain-stem")


def cut_the_brain(image: np.ndarray, labels: np.ndarray) -> None:
    labels[:, :, :26] = 0
    labels[10:50, 20:60, :2] = value("left cerebral cortex")


def enlarge_the_head(image: np.ndarray, labels: np.ndarray) -> None:
    labels[labels == 0] = value("cerebrospinal fluid")


def strip_the_skull(image: np.ndarray, labels: np.ndarray) -> None:
    labels[labels == value("cerebrospinal fluid")] = 0


def exchange_the_sides(image: np.ndarray, labels: np.ndarray) -> None:
    labels[:] = labels[::-1].copy()


def shift_a_pair(image: np.ndarray, labels: np.ndarray) -> None:
    for side in ("left", "right"):
        labels[labels == value(f"{side} amygdala")] = 0
    labels[40:43, 36:39, 24:27] = value("left amygdala")
    labels[45:48, 36:39, 24:27] = value("right amygdala")


def add_noise(image: np.ndarray, labels: np.ndarray) -> None:
    image += np.random.default_rng(1).normal(0, 40, image.shape)


def darken_a_slice(image: np.ndarray, labels: np.ndarray) -> None:
    image[:, :, 30] *= 0.6


def lose_voxels(image: np.ndarray, labels: np.ndarray) -> None:
    image[:, :, 40:45] = np.nan


def flatten(image: np.ndarray, labels: np.ndarray) -> None:
    image[:] = 4.0


def noise_alone(image: np.ndarray, labels: np.ndarray) -> None:
    image[:] = np.abs(np.random.default_rng(3).normal(0, 40, image.shape))


@pytest.mark.parametrize(
    ("change", "code", "level"),
    [
        (erase, "nothing_found", "serious"),
        (lose_a_putamen, "absent", "warning"),
        (grow_a_ventricle, "implausible_volume", "serious"),
        (scatter_a_thalamus, "disconnected", "warning"),
        (reach_the_edge, "touches_border", "warning"),
        (fill_the_edge, "field_of_view", "warning"),
        (cut_the_brain, "brain_cut", "serious"),
        (enlarge_the_head, "intracranial_volume", "serious"),
        (strip_the_skull, "fluid_missing", "warning"),
        (exchange_the_sides, "sides_exchanged", "serious"),
        (shift_a_pair, "sides_do_not_mirror", "warning"),
        (add_noise, "noise", "warning"),
        (darken_a_slice, "uneven_slices", "warning"),
        (lose_voxels, "not_finite", "serious"),
        (flatten, "flat_image", "serious"),
        (noise_alone, "noise_alone", "serious"),
    ],
)
def test_each_fault_is_named(change: Change, code: str, level: str) -> None:
    assert (code, level) in {(flag.code, flag.level) for flag in flags_after(change)}


def test_an_image_without_content_is_the_first_finding() -> None:
    def draw_in_nothing(image: np.ndarray, labels: np.ndarray) -> None:
        enlarge_the_head(image, labels)
        flatten(image, labels)

    assert flags_after(enlarge_the_head)[0].code == "intracranial_volume"

    def draw_in_noise(image: np.ndarray, labels: np.ndarray) -> None:
        enlarge_the_head(image, labels)
        noise_alone(image, labels)

    assert flags_after(draw_in_nothing)[0].code == "flat_image"
    assert flags_after(draw_in_noise)[0].code == "noise_alone"


def test_a_ventricle_may_lie_in_parts() -> None:
    def separate_a_horn(image: np.ndarray, labels: np.ndarray) -> None:
        labels[2:6, 2:6, 2:6] = value("left lateral ventricle")

    assert "disconnected" not in codes(flags_after(separate_a_horn))


def test_the_structure_and_the_side_are_named() -> None:
    (absent,) = (f for f in flags_after(lose_a_putamen) if f.code == "absent")
    assert absent.structures == ("left putamen",)
    (cut,) = (f for f in flags_after(fill_the_edge) if f.code == "field_of_view")
    assert cut.structures == ("brain-stem",)
    assert cut.values["faces"] == ["inferior"]
    assert cut.values["area_cm2"] == pytest.approx(20 * 20 * 9 / 100)


def test_fluid_may_run_on_and_lie_in_pieces() -> None:
    def spill(image: np.ndarray, labels: np.ndarray) -> None:
        labels[20:40, 30:50, :2] = value("cerebrospinal fluid")
        labels[2:12, 2:12, 50:58] = value("cerebrospinal fluid")

    assert flags_after(spill) == ()


def test_low_confidence_names_the_worst_first() -> None:
    image, labels, grid = head()
    confidence = np.full(labels.shape, 0.95)
    confidence[labels == value("left amygdala")] = 0.6
    confidence[labels == value("right amygdala")] = 0.5
    (flag,) = make_report("x", labels, grid, BRAIN, image, confidence=confidence).flags
    assert flag.code == "low_confidence"
    assert flag.structures == ("right amygdala", "left amygdala")
    assert flag.values["lowest_percent"] == pytest.approx(50)


def test_modality_outside_the_bundle() -> None:
    flags = flags_after(lambda image, labels: None, expected_modalities=("CT",))
    assert codes(flags) == {"modality"}
    assert traffic_light(flags) == "red"
    assert flags_after(lambda image, labels: None, expected_modalities=("MR", "CT")) == ()


@pytest.mark.parametrize(("shift", "flagged"), [(0.0, True), (-1024.0, False)])
def test_ct_without_rescaling(shift: float, flagged: bool) -> None:
    image, labels, grid = head()
    image = np.abs(image) + 1000 + shift
    flags = make_report("x", labels, grid, BRAIN, image, facts={"modality": "CT"}).flags
    assert ("not_hounsfield" in codes(flags)) is flagged


@pytest.mark.parametrize(
    ("shape", "spacing", "code"),
    [((30, 30, 1), 3.0, "few_slices"), ((30, 30, 5), 3.0, "few_slices"), ((40, 40, 40), 5.0, "thick_slices")],
)
def test_grids_that_limit_what_can_be_read(shape: tuple[int, int, int], spacing: float, code: str) -> None:
    labels = np.ones(shape, np.uint8)
    grid = Grid(shape, ras_affine(spacing, shape))
    assert code in codes(check_quality(measure(labels, grid, BRAIN), grid))


def test_a_sound_head_is_green_in_any_pose() -> None:
    image, labels, grid = head()
    turn = np.array([[0.87, -0.5, 0, 12], [0.5, 0.87, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]])
    for affine in (grid.affine, turn @ grid.affine):
        report = make_report("pose", labels, Grid(grid.shape, affine), BRAIN, image)
        assert report.light == "green" and str(report.verdict()) == "green"


def test_the_verdict_is_the_light_and_the_first_serious_finding() -> None:
    image, labels, grid = head()
    enlarge_the_head(image, labels)
    report = make_report("x", labels, grid, BRAIN, image)
    assert report.light == "red"
    assert str(report.verdict()) == f"red: {Verdict.of(to_json(report)).finding}"
    assert "intracranial" in report.verdict().finding and "intrakraniell" in report.verdict("de").finding


def test_every_flag_has_words_in_every_language() -> None:
    changes = (
        erase, lose_a_putamen, grow_a_ventricle, fill_the_edge, add_noise, lose_voxels, cut_the_brain,
        strip_the_skull, enlarge_the_head, exchange_the_sides, shift_a_pair,
    )  # fmt: skip
    flags = [flag for change in changes for flag in flags_after(change)]
    english = load_language("en")
    for code in ("en", "de", "fr"):
        language = load_language(code)
        assert language.flags.keys() == english.flags.keys()
        assert language.words.keys() == english.words.keys()
        if code != "en":
            assert {s.unsided_name for s in BRAIN} <= language.structures.keys()
        for flag in flags:
            seen, do = language.flag(flag, BRAIN.by_name)
            assert seen.endswith(".") and do.endswith(".")
            assert "{" not in seen + do


def restored_flags(restore: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> dict[str, str]:
    """Level of each finding after the restoration of a noisy head, from the noisy and the clean image."""
    clean, _, grid = head()
    clean = np.asarray(clean, np.float32)
    noisy = np.abs(clean + np.random.default_rng(3).normal(0, 0.04 * clean.max(), clean.shape))
    report = make_restoration_report("x", restore(noisy, clean), noisy, grid, facts={"modality": "MR"})
    ours = {"structure_removed", "intensity_shift", "out_of_range", "little_noise"}
    return {flag.code: flag.level for flag in report.flags if flag.code in ours}


def test_a_restoration_that_takes_out_noise_alone_is_green() -> None:
    assert restored_flags(lambda noisy, clean: clean) == {}
    assert restored_flags(lambda noisy, clean: 0.95 * clean + 0.05 * noisy) == {}


def test_taking_out_little_beside_the_fine_structure_is_a_warning() -> None:
    assert restored_flags(lambda noisy, clean: 0.5 * (clean + noisy)) == {"little_noise": "warning"}


def test_a_restoration_that_harms_turns_the_light() -> None:
    blurred = restored_flags(lambda noisy, clean: gaussian_filter(noisy, (1.5, 1.5, 0)))
    assert blurred["structure_removed"] == "serious"
    assert restored_flags(lambda noisy, clean: 0.85 * clean) == {"intensity_shift": "serious"}
    darker = restored_flags(lambda noisy, clean: clean - 0.01 * clean.max())
    assert list(darker) == ["out_of_range"]


def estimated_flags(change: Callable[[np.ndarray], np.ndarray], noise: float) -> dict[str, str]:
    """Level of each finding on an estimate between slices of 4 mm, a changed true head."""
    clean, _, _ = head()
    true = np.asarray(clean, np.float32)[..., : clean.shape[2] // 4 * 4]
    slices = true.reshape(*true.shape[:2], -1, 4).mean(axis=3)
    slices = np.abs(slices + np.random.default_rng(0).normal(0, noise * clean.max(), slices.shape))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    image = MetaTensor(torch.from_numpy(slices.astype(np.float32))[None], affine=torch.from_numpy(affine))
    study = LoadedStudy("case", (Series((), "memory"),), image=image, grid=Grid(slices.shape, affine))
    report = report_restored(study, change(true), refinement_of(study).grid, facts={"modality": "MR"})
    return {flag.code: flag.level for flag in report.flags if flag.code == "contradicts_slices"}


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_an_estimate_that_contradicts_its_slices_turns_the_light(noise: float) -> None:
    assert estimated_flags(lambda true: true, noise) == {}
    assert estimated_flags(lambda true: 0.7 * true, noise) == {"contradicts_slices": "serious"}
    assert "contradicts_slices" in estimated_flags(lambda true: gaussian_filter(true, 3.0), noise)
