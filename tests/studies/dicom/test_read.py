"""What holds of every read: nothing but the images decides, and no file can harm the process."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medvit.errors import StudyError
from medvit.studies.dicom import isolated, read, scan
from medvit.studies.study import Series
from tests.studies.dicom.encoding import SYNTAXES, cut, save, save_as
from tests.studies.dicom.hazards import moved, rotated, write_all
from tests.studies.dicom.hazards_of_files import multiframe
from tests.studies.dicom.hazards_of_series import HAZARDS
from tests.studies.dicom.synthetic import Synthetic, assert_right, made_up, set_pixels, uid


@pytest.fixture(scope="module")
def truth() -> Synthetic:
    return made_up()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def only(folder: Path) -> Series:
    (series,) = scan(files(folder)).series
    return series


def test_index_order_is_column_row_slice_along_the_normal(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["01_base"].write(truth, tmp_path)
    image, grid, notes = read(only(tmp_path))
    # Written from top to bottom; along the normal is from bottom to top.
    np.testing.assert_array_equal(image, truth.values[::-1].transpose(2, 1, 0))
    lowest = truth.positions[-1]
    expected = np.array(
        [[-0.9765625, 0, 0, -lowest[0]], [0, -0.9765625, 0, -lowest[1]], [0, 0, 2, lowest[2]], [0, 0, 0, 1]]
    )
    np.testing.assert_allclose(grid.affine, expected, atol=1e-9)
    assert notes == ()


@pytest.mark.parametrize("seed", range(3))
def test_names_order_nesting_and_syntax_change_nothing(truth: Synthetic, tmp_path: Path, seed: int) -> None:
    HAZARDS["01_base"].write(truth, tmp_path / "plain")
    image, grid, _ = read(only(tmp_path / "plain"))
    random = np.random.default_rng(seed)
    for ds in truth.datasets():
        folder = tmp_path / "mixed" / Path(*(str(n) for n in random.integers(0, 3, random.integers(0, 4))))
        name = folder / f"{random.integers(10**9)}.x"
        syntax = random.choice(["", *SYNTAXES])
        save_as(ds, name, syntax) if syntax else save(ds, name)
    mixed = files(tmp_path / "mixed")
    random.shuffle(mixed)
    (series,) = scan(mixed).series
    other, other_grid, _ = read(Series(tuple(random.permutation(np.array(series.paths))), "dicom"))
    np.testing.assert_array_equal(other, image)
    np.testing.assert_array_equal(other_grid.affine, grid.affine)


def test_a_header_cut_anywhere_is_never_silent(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["01_base"].write(truth, tmp_path)
    last = tmp_path / "IM0009.dcm"
    whole = last.read_bytes()
    for end in range(1, len(whole), 97):
        last.write_bytes(whole[:end])
        found = scan(files(tmp_path))
        assert found.series and not found.left_out
        for series in found.series:
            assert "problem" in series.facts or end > len(whole) - 2880
            with pytest.raises(StudyError):
                read(series)


@pytest.mark.parametrize("end", [700, 900, 1050, 1066])
def test_a_header_that_is_cut_off_is_told_once_and_as_such(
    truth: Synthetic, tmp_path: Path, end: int
) -> None:
    HAZARDS["01_base"].write(truth, tmp_path)
    cut(tmp_path / "IM0009.dcm", end)
    series = only(tmp_path)
    assert len(series.paths) == 10
    assert series.facts["problem_code"] == "dicom-damaged-file"
    assert "cut off" in series.facts["problem"]


def test_other_files_beside_a_series_are_left_out_by_name(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["30_junk_files"].write(truth, tmp_path)
    found = scan(files(tmp_path))
    assert "problem" not in found.series[0].facts
    assert {left.path.name: left.why for left in found.left_out} == {
        "readme.txt": "not a DICOM file",
        "empty.dcm": "an empty file",
        "Thumbs.db": "not a DICOM file",
        ".DS_Store": "not a DICOM file",
    }


def test_a_damaged_file_in_a_folder_of_its_own_spoils_its_series(truth: Synthetic, tmp_path: Path) -> None:
    for k, ds in enumerate(truth.datasets()):
        save(ds, tmp_path / f"{k}" / "IM")
    cut(tmp_path / "9" / "IM", 300)
    with pytest.raises(StudyError, match="dicom-damaged-file"):
        read(only(tmp_path))


def test_a_damaged_file_spoils_no_series_of_another_folder(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["01_base"].write(truth, tmp_path / "one")
    HAZARDS["01_base"].write(truth, tmp_path / "other")
    for path in files(tmp_path / "other"):
        cut(path, 300)
    *damaged, sound = sorted(scan(files(tmp_path)).series, key=lambda series: len(series.paths))
    assert_right(*read(sound)[:2], truth)
    assert len(damaged) == 10
    for series in damaged:
        with pytest.raises(StudyError, match="dicom-damaged-file"):
            read(series)


def test_an_image_without_a_series_spoils_the_one_it_lies_among(truth: Synthetic, tmp_path: Path) -> None:
    slices = truth.datasets()
    slices[-1].SeriesInstanceUID = ""
    write_all(slices, tmp_path)
    for series in scan(files(tmp_path)).series:
        if len(series.paths) > 1:
            with pytest.raises(StudyError, match="dicom-mixed-series"):
                read(series)


def test_ct_without_rescale_is_not_called_hu(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["32f_missing_rescale_all"].write(truth, tmp_path)
    series = only(tmp_path)
    assert "units" not in series.facts
    assert "does not say HU" in read(series)[2][0]


def test_facts_name_no_patient(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["01_base"].write(truth, tmp_path)
    found = scan(files(tmp_path))
    facts = found.series[0].facts
    assert facts["modality"] == "CT"
    assert facts["plane"] == "axial"
    assert facts["slice_thickness"] == 3
    assert facts["spacing"][2] == 2
    assert facts["units"] == "HU"
    assert found.patients == [{"name": "Phantom^Anna", "id": "P-0042"}]
    for secret in ("Anna", "P-0042", truth.header.SeriesInstanceUID):
        assert secret not in repr(facts)
    assert "Anna" not in repr(found)


def test_localizer_and_duplicate_are_named(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["10_localizer_in_series"].write(truth, tmp_path / "a")
    found = scan(files(tmp_path / "a"))
    assert [(left.path.name, left.why) for left in found.left_out] == [("IM0010.dcm", "a localizer")]
    _, _, notes = read(Series(tuple(files(tmp_path / "a")), "dicom"))
    assert notes == ("Left out as a localizer: 1.",)
    HAZARDS["06_dup_file_same_uid"].write(truth, tmp_path / "b")
    found = scan(files(tmp_path / "b"))
    assert [(left.path.name, left.why) for left in found.left_out] == [
        ("IM0010.dcm", "a copy of another file")
    ]
    _, _, notes = read(Series(tuple(files(tmp_path / "b")), "dicom"))
    assert notes == ("Left out 1 copy of another file.",)


def test_a_tilt_is_kept_or_taken_out(truth: Synthetic, tmp_path: Path) -> None:
    # A ramp along the patient's y axis, seen on tilted slices: upright again, it is the same ramp.
    tilted = moved(truth, 1, 0.6)
    ramp = np.rint(2000 - 10 * tilted.places[..., 1]).astype(int)
    tilted = replace(tilted, stored=np.clip(ramp, 1, 4095))
    write_all(tilted.datasets(), tmp_path)
    image, grid, _ = read(only(tmp_path), tilt="keep")
    assert_right(image, grid, tilted)
    image, grid, notes = read(only(tmp_path), tilt="resample")
    axes = grid.affine[:3, :3] / grid.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert grid.spacing == pytest.approx((0.9765625, 0.9765625, 2.0))
    assert "16.7 degrees" in notes[0]
    index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
    y = (index @ grid.affine[:3, :3].T + grid.affine[:3, 3])[..., 1]
    inside = image > image.min() + 50
    assert inside.mean() > 0.7
    assert np.abs(image - (2000 - 1024 - 10 * y))[inside].max() < 12


def test_one_of_several_volumes_is_chosen_by_its_label(truth: Synthetic, tmp_path: Path) -> None:
    double = replace(
        truth,
        stored=np.concatenate([truth.stored, truth.stored[:, ::-1]]),
        positions=np.concatenate([truth.positions, truth.positions]),
    )
    ds = multiframe(double)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.FrameContentSequence = Sequence([Dataset()])
    order = np.random.default_rng(5).permutation(len(double.stored))
    for frame, k in zip(ds.PerFrameFunctionalGroupsSequence, order, strict=True):
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + int(k) // len(truth.stored)
    save(ds, tmp_path / "double.dcm")
    first, second = scan(files(tmp_path)).series
    assert (first.facts["volume"], second.facts["volume"]) == ("time 1", "time 2")
    assert_right(*read(first)[:2], truth)
    assert_right(*read(second)[:2], replace(truth, stored=truth.stored[:, ::-1]))
    with pytest.raises(StudyError, match="dicom-several-volumes"):
        read(Series(first.paths, "dicom"))


@pytest.mark.parametrize("told_by", ["TemporalPositionIdentifier", "InstanceNumber"])
def test_a_volume_that_lacks_slices_is_refused_and_the_whole_one_read(
    truth: Synthetic, tmp_path: Path, told_by: str
) -> None:
    slices = truth.datasets()
    for ds in copy.deepcopy(slices[:-3]):
        set_pixels(ds, np.fliplr(truth.stored[ds.InstanceNumber - 1]))
        ds.SOPInstanceUID = uid("late", ds.InstanceNumber)
        setattr(ds, told_by, 2 if told_by != "InstanceNumber" else 10 + ds.InstanceNumber)
        slices.append(ds)
    write_all(slices, tmp_path)
    whole, partial = scan(files(tmp_path)).series
    assert "problem" not in whole.facts
    assert_right(*read(whole)[:2], truth)
    assert partial.facts["problem_code"] == "dicom-incomplete-volume"
    assert len(partial.paths) == 7
    with pytest.raises(StudyError, match="dicom-several-volumes"):
        read(Series(tuple(files(tmp_path)), "dicom"))


def test_volumes_that_lack_different_slices_are_refused(truth: Synthetic, tmp_path: Path) -> None:
    slices = truth.datasets()
    late = copy.deepcopy(slices)
    for ds in late:
        ds.SOPInstanceUID, ds.TemporalPositionIdentifier = uid("late", ds.InstanceNumber), 2
        set_pixels(ds, np.fliplr(truth.stored[ds.InstanceNumber - 1]))
    write_all(slices[:-1] + late[1:], tmp_path)
    with pytest.raises(StudyError, match="dicom-incomplete-volume"):
        read(only(tmp_path))


def test_what_a_person_should_know_is_known_before_reading(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["53d_text_in_the_pixels"].write(truth, tmp_path)
    assert only(tmp_path).facts["notes"] == ("Text is burned into the pixels (files: 1).",)


def test_stacks_of_two_orientations_are_two_volumes(truth: Synthetic, tmp_path: Path) -> None:
    sagittal = rotated(truth, [0, 1, 0], [0, 0, -1])
    write_all([*truth.datasets(), *sagittal.datasets()], tmp_path)
    for k, path in enumerate(sorted(files(tmp_path))):
        assert path.name == f"IM{k:04d}.dcm"
    found = {series.facts["plane"]: series for series in scan(files(tmp_path)).series}
    assert_right(*read(found["axial"])[:2], truth)
    assert_right(*read(found["sagittal"])[:2], sagittal)


def test_isolated_read_is_the_same_read(truth: Synthetic, tmp_path: Path) -> None:
    HAZARDS["14b_one_slice_intercept"].write(truth, tmp_path / "good")
    series = only(tmp_path / "good")
    here, there = read(series), read(series, isolate=True)
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_array_equal(here[1].affine, there[1].affine)
    assert here[1].shape == there[1].shape
    assert here[2] == there[2]
    HAZARDS["04_missing_slice"].write(truth, tmp_path / "bad")
    with pytest.raises(StudyError) as refusal:
        read(only(tmp_path / "bad"), isolate=True)
    assert refusal.value.code == "dicom-missing-slice"
    assert refusal.value.tag.startswith("ImagePositionPatient")


@pytest.mark.parametrize(
    ("child", "timeout", "code"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60, "dicom-read-crash"),
        ("while True: pass", 1, "dicom-read-timeout"),
    ],
)
def test_crash_and_hang_stay_in_the_child(
    truth: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, timeout: float, code: str
) -> None:
    HAZARDS["01_base"].write(truth, tmp_path)
    monkeypatch.setattr(isolated, "COMMAND", ("-c", child))
    with pytest.raises(StudyError) as refusal:
        read(only(tmp_path), isolate=True, timeout=timeout)
    assert refusal.value.code == code


_MEASURE = """
import resource, sys, time
from pathlib import Path
from medvit.studies.dicom import read, scan
from medvit.errors import StudyError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
for series in scan(Path(sys.argv[1]).iterdir()).series:
    try:
        read(series)
    except StudyError as error:
        print(error.code, time.perf_counter() - start, peak() - before)
"""


@pytest.mark.parametrize("name", [n for n in HAZARDS if n.split("_")[0] in ("35", "35b", "43", "44", "45")])
def test_bombs_are_refused_soon_and_in_little_memory(truth: Synthetic, tmp_path: Path, name: str) -> None:
    hazard = HAZARDS[name]
    hazard.write(truth, tmp_path)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout
    code, seconds, megabytes = output.split()
    assert code == hazard.refusal
    assert float(seconds) < 5
    assert float(megabytes) < 500


def test_scanning_needs_no_torch() -> None:
    heavy = ("torch", "monai", "scipy")
    code = f"import sys, medvit.studies.dicom; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
