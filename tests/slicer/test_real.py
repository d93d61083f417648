"""The real `medvit` command, on a tiny volume on oblique, permuted axes."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from MedViTLib.compute import Job
from MedViTLib.errors import MedViTError
from MedViTLib.local import LocalEngine
from MedViTLib.volume import Volume

from medvit.bundles import find_bundle
from tests.slicer.grids import AFFINES

COMMAND = Path(sys.executable).with_name("medvit")
BUNDLE = "segformer3d_brain"


@pytest.fixture
def engine() -> LocalEngine:
    if not COMMAND.is_file():
        pytest.skip("the medvit command is not beside this Python")
    return LocalEngine(str(COMMAND))


def head(name: str) -> Volume:
    ball = np.linalg.norm(np.indices((40, 36, 32)).T - (20, 18, 16), axis=-1).T < 12
    noise = np.random.default_rng(0).normal(0, 20, ball.shape)
    affine = AFFINES[name].copy()
    affine[:3, :3] *= np.array([4.0, 2.0, 1.0])
    return Volume((400 * ball + noise).astype(np.int16), affine, "tiny head")


@pytest.mark.slow
def test_the_real_command_gives_a_label_map_on_the_same_grid(engine: LocalEngine, tmp_path: Path) -> None:
    assert BUNDLE in [b.name for b in engine.bundles()]
    volume = head("oblique and permuted")
    job = Job(lambda job: engine.run(BUNDLE, volume, tmp_path, job)).start()
    shares = set()
    while not job.wait(0.02):
        shares.add(job.share)
    result = job.result()
    assert result.volume.same_grid(volume)
    table = find_bundle(BUNDLE).label_table
    assert table is not None and result.labels == tuple(s.name for s in table)
    assert sum(result.volumes_ml.values()) == pytest.approx(
        np.count_nonzero(result.volume.voxels) * volume.voxel_ml, rel=1e-3
    )
    assert result.report is not None and "tiny_head" in result.report.read_text(encoding="utf-8")
    assert any(share is not None for share in shares), "the command told no progress"


@pytest.mark.slow
def test_the_real_command_says_what_is_wrong(engine: LocalEngine, tmp_path: Path) -> None:
    flat = Volume(np.full((8, 8, 8), np.nan, np.float32), np.eye(4), "flat")
    for bundle, volume, says in (
        ("absent", head("RAS"), "there is no bundle 'absent'"),
        (BUNDLE, flat, r"flat"),
    ):
        job = Job(lambda job, b=bundle, v=volume: engine.run(b, v, tmp_path, job)).start()  # type: ignore[misc]
        assert job.wait(300)
        with pytest.raises(MedViTError, match=says):
            job.result()
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
