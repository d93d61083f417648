"""One call from a study to its result in memory, equal to what a run writes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.bundles import check_for, find_bundle, open_bundle, segment
from medvit.bundles.segmentation import Result, prepare
from medvit.errors import StudyError
from medvit.runs import run_bundle
from medvit.studies import only_study, read_study
from medvit.studies.study import Grid, LoadedStudy
from tests.phantoms import COARSE

BUNDLE = find_bundle("segformer3d_brain")
GRID = Grid((6, 5, 4), np.diag([1.0, 1.0, 1.2, 1.0]))


def write(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([4.0, 4, 4, 1])), path)
    return path


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return write(tmp_path / "head.nii.gz", np.random.default_rng(0).uniform(0, 900, (20, 22, 24)))


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    values = np.full((20, 22, 24), -1000.0)
    values[5:15, 5:15, 5:15] = 40
    return write(tmp_path / "ct.nii.gz", values)


def test_the_result_is_what_a_run_writes(head: Path, tmp_path: Path) -> None:
    result = segment(open_bundle(BUNDLE, device="cpu", **COARSE), head)
    assert run_bundle(BUNDLE, [head], tmp_path / "out", device="cpu", report=False, **COARSE) == 3  # red
    written = np.asarray(nib.load(tmp_path / "out" / "head" / "labels.nii.gz").dataobj)
    np.testing.assert_array_equal(result.voxels, written)
    assert set(result.seconds) == {"read", "preprocess", "infer", "postprocess"}
    for structure in BUNDLE.label_table:
        expected = (written == structure.value).sum() * 0.064
        assert result.volumes_ml[structure.name] == pytest.approx(expected)


def test_volumes_are_of_the_structures_that_a_study_can_have() -> None:
    """A crop of which no side is known has no volume of 0 for each side."""
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[:3] = 1
    study = LoadedStudy("crop", (), image=MetaTensor(torch.zeros(1, 6, 5, 4)), grid=GRID)
    result = Result(study, labels, GRID, find_bundle("segformer3d_hippocampus"))
    ml = GRID.voxel_volume / 1000
    assert result.volumes_ml == {"hippocampal head": pytest.approx(60 * ml), "hippocampal body and tail": 0.0}
    labels[labels == 1] = 4
    left = {name for name, volume in result.volumes_ml.items() if volume}
    assert left == {find_bundle("segformer3d_hippocampus").label_table.structures[3].name}
    assert len(result.volumes_ml) == 4


def test_a_forced_study_is_marked_in_every_output(ct: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="values of a CT"):
        segment(BUNDLE, ct, device="cpu", **COARSE)
    out = tmp_path / "out"
    assert run_bundle(BUNDLE, [ct], out, device="cpu", **COARSE) == 3
    assert not (out / "ct").exists()
    assert run_bundle(BUNDLE, [ct], out, device="cpu", force=True, **COARSE) == 3  # red
    measurements = json.loads((out / "ct" / "measurements.json").read_text())
    assert measurements["quality"]["light"] == "red"
    assert measurements["quality"]["flags"][0]["code"] == "forced"
    assert "Forced through the gate" in json.dumps(measurements)
    assert "forced through: it has the values of a CT" in (out / "ct" / "report.html").read_text()


def test_check_asks_the_gate(head: Path, ct: Path) -> None:
    seen = {c.id: c for c in check_for(BUNDLE, [str(head), str(ct)])}
    assert seen["head"].ok
    assert [code for code, _ in seen["ct"].problems] == ["outside-scope"]


def test_a_gpu_gets_the_image_from_page_locked_memory_and_the_study_keeps_its_own(
    head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By stand-ins for what there is no GPU for."""
    asked: list[object] = []

    def pin_memory(image: torch.Tensor) -> torch.Tensor:
        asked.append("pinned")
        return image

    def to(image: torch.Tensor, device: object, *, non_blocking: bool) -> torch.Tensor:
        asked.append((str(device), non_blocking))
        return image + 0

    study = read_study(only_study(head))
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "pin_memory", pin_memory)
        patched.setattr(torch.Tensor, "to", to)
        seen = prepare(study, lambda data: {"image": data["image"].image}, "cuda:1")
    assert asked == ["pinned", ("cuda:1", True)]
    assert seen is not study.image and torch.equal(seen, study.image)
    assert torch.equal(seen.affine, study.image.affine)
    assert prepare(study, lambda data: {"image": data["image"].image}, "cpu") is study.image
