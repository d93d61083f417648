"""The brain bundle over a small cohort: one bad study, a resume, and the same results each time."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bundles import find_bundle
from medvit.runs import read_status, run_cohort

pytestmark = pytest.mark.slow


def _make_inputs(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        image = nib.Nifti1Image(rng.normal(100, 20, (48, 48, 40)).astype(np.float32), np.diag([4.0, 4, 4, 1]))
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{name}.nii.gz")
    whole = (folder / "a.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])


def _tree(output: Path) -> dict[str, str]:
    files = [p.relative_to(output) for p in output.rglob("*") if p.is_file() and p.name != "run.json"]
    results = [p for p in files if p.parts[0] != ".cohort"]
    return {p.as_posix(): hashlib.sha256((output / p).read_bytes()).hexdigest() for p in results}


def test_the_brain_bundle_over_a_cohort(tmp_path: Path) -> None:
    bundle = find_bundle("segformer3d_brain")
    _make_inputs(tmp_path / "in")
    output = tmp_path / "out"
    assert run_cohort(bundle, [str(tmp_path / "in")], output, workers=1, time_limit=900.0) == 3
    first = _tree(output)
    failures = json.loads((output / "run.json").read_text())["failures"]
    assert [(f["study"], f["stage"]) for f in failures] == [("cut", "read")]
    results = {"labels.nii.gz", "measurements.json", "report.html", "done.json"}
    assert results <= {path.name for path in (output / "a").iterdir()}
    assert (output / "cohort.html").stat().st_size > 1000
    assert (output / "cohort.csv").read_text().count("\n") == 4
    (output / "b" / "labels.nii.gz").write_bytes(b"cut off")
    assert run_cohort(bundle, [str(tmp_path / "in")], output, workers=1, time_limit=900.0) == 3
    assert list(json.loads((output / "run.json").read_text())["runs"][-1]["redone"]) == ["b"]
    assert _tree(output) == first
    assert read_status(output).done == 2
