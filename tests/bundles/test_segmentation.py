"""One call from a study to its result in memory, equal to what a run writes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bundles import check_for, find_bundle, open_bundle, segment
from medvit.errors import StudyError
from medvit.runs import run_bundle
from tests.phantoms import COARSE

BUNDLE = find_bundle("segformer3d_brain")


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
