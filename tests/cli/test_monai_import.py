"""The command imports only the part of MONAI that a bundle needs, and gives the same answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medvit.bundles import Bundle, find_bundle, installed_bundles
from medvit.cli import monai_import
from medvit.cli.monai_import import import_monai_for
from medvit.runs import run_bundle
from tests.phantoms import coarse_bundle, write_head

# Imported afterwards, what was left out works as ever.
_SCRIPT = """
import json, pkgutil, sys
from medvit.cli.app import main
sys.argv = ["medvit", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]))
import ignite.engine, pandas, scipy.sparse.linalg, skimage.measure
from monai.engines import SupervisedEvaluator
from monai.utils import module
assert issubclass(SupervisedEvaluator, ignite.engine.Engine)
assert module.walk_packages is pkgutil.walk_packages and list(pkgutil.walk_packages(json.__path__))
"""
_SLOW = {
    "ignite", "itk", "matplotlib.pyplot", "monai.engines", "pandas", "pydicom", "scipy.signal", "scipy.stats",
    "sklearn", "sympy", "tensorboard", "torch.distributed.tensor",
}  # fmt: skip


def test_a_run_imports_nothing_that_is_slow_and_not_needed(tmp_path: Path) -> None:
    bundle = coarse_bundle(tmp_path / "bundles")
    head = write_head(tmp_path / "head.nii")
    command = ["run", str(bundle.path), "--trust", str(head), "-o", str(tmp_path / "quick"), "--force"]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert "monai.transforms" in loaded
    assert not _SLOW & set(loaded)
    # This process has imported MONAI as usual.
    assert run_bundle(bundle, [head], tmp_path / "usual", force=True) == code
    quick, usual = (
        np.asanyarray(nib.load(tmp_path / name / "head" / "labels.nii.gz").dataobj)
        for name in ("quick", "usual")
    )
    assert (quick == usual).all() and quick.any()


@pytest.mark.parametrize("name", [bundle.name for bundle in installed_bundles()])
def test_the_bundles_that_ship_need_little_of_monai(name: str) -> None:
    assert monai_import._needs_little(find_bundle(name))


@pytest.mark.parametrize(
    "change",
    [
        {"postprocessing": {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}},
        {"network_def": {"_target_": "scripts.networks.Mine"}},
        {"imports": ["$import monai"]},
        {"imports": ["$from medvit import bundles", "$from medvit import runs; import skimage"]},
        {"network": "$__import__('ignite')"},
    ],
)
def test_a_bundle_with_other_components_gets_all_of_monai(change: dict[str, Any], tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    (tmp_path / "configs").mkdir()
    usual = json.loads(find_bundle("rat_ct_denoise").config("inference").read_text())
    bundle_config = tmp_path / "configs" / "inference.json"
    for config, little in ((usual, True), (usual | change, False)):
        bundle_config.write_text(json.dumps(config))
        assert monai_import._needs_little(bundle) is little


def test_nothing_is_done_where_monai_has_been_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(monai_import, "_without_optional_packages", refused)
    assert "monai" in sys.modules
    import_monai_for(find_bundle("segformer3d_brain"))
