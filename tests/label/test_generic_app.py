"""The bundles are ordinary ones: MONAI Label's own app for bundles serves them as well."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from tests.label.conftest import free_port, start, wait_until_ready
from tests.label.phantoms import CASES, TABLE, make_bundle, phantom, write_cases

pytestmark = pytest.mark.label


def test_the_app_monaibundle_gives_the_same_mask(tmp_path: Path) -> None:
    from monailabel.client import MONAILabelClient

    app = tmp_path / "app"
    shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
    make_bundle(app / "model" / "steps")
    write_cases(tmp_path / "studies")
    options = {"models": "steps", "zoo_source": "local", "sam2": "false"}
    command = ["-m", "medvit.label.compat", "start_server", "--app", str(app), "--host", "127.0.0.1"]
    command += ["--studies", str(tmp_path / "studies")]
    command += [part for key, value in options.items() for part in ("--conf", key, value)]
    port = free_port()
    process = start(tmp_path, command, port)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, url, tmp_path)
        client = MONAILabelClient(url, tmpdir=str(tmp_path))
        assert client.info()["models"]["steps"]["labels"] == {s.name: s.value for s in TABLE}
        for name, (shape, _) in CASES.items():
            params = {"result_extension": ".nrrd", "result_dtype": "uint8"}
            file, _ = client.infer("steps", name, params)
            mask = SimpleITK.ReadImage(file)
            image = SimpleITK.ReadImage(str(tmp_path / "studies" / f"{name}.nii.gz"))
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask).T, phantom(shape), err_msg=name)
            np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-4)
            np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
