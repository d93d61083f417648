"""The environment that `make label-env` makes: what medvit is tested with, and MONAI Label beside it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.label.conftest import ROOT, environment

pytestmark = pytest.mark.label


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_monai_label_changed_no_version() -> None:
    assert version("monailabel") == "0.8.5"
    for name, pinned in pins().items():
        try:
            assert version(name).partition("+")[0] == pinned, name
        except PackageNotFoundError:
            assert name == "nilearn"  # only for the demo
    for name in ("pydicom-seg", "torchvision", "mlflow", "numpymaxflow"):
        with pytest.raises(PackageNotFoundError):
            version(name)


def test_the_modules_of_the_server_can_be_imported(tmp_path: Path) -> None:
    code = (
        "from medvit.label import compat; compat.install(); import monailabel.app, medvit.label.application"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, env=environment(tmp_path), cwd=tmp_path
    )
    assert not (tmp_path / "network.log").exists()
