"""Reading in a process of its own, so that a crash, a hang or a memory bomb ends there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from medvit.data.study import Grid, Series
from medvit.errors import StudyError

# Address space that the child may take beyond what the volume itself needs several times over.
MEMORY_BESIDE_VOLUME = 4 * 2**30
COMMAND = ("-m", "medvit.data.dicom.isolated")


def read(series: Series, tilt: str, timeout: float) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """As `medvit.data.dicom.read`, in a child process.

    Raises
    ------
    StudyError
        What the child found, or that it crashed or took longer than `timeout` seconds.
    """
    request = {
        "paths": [str(path.absolute()) for path in series.paths],
        "volume": str(series.facts.get("volume", "")),
        "tilt": tilt,
    }
    with tempfile.TemporaryDirectory(prefix="medvit-") as folder:
        command = [sys.executable, *COMMAND, folder]
        try:
            done = subprocess.run(
                command, input=json.dumps(request).encode(), capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            what = f"reading the series took longer than {timeout:g} seconds"
            raise StudyError("dicom-read-timeout", what, path=series.paths[0]) from None
        if done.returncode:
            what = f"reading the series ended its process (exit code {done.returncode})"
            raise StudyError("dicom-read-crash", what, path=series.paths[0])
        reply = json.loads(done.stdout)
        if "error" in reply:
            raise StudyError(**reply["error"])
        planes = np.load(Path(folder, "planes.npy"), allow_pickle=False)
    grid = Grid(tuple(reply["shape"]), np.array(reply["affine"]))
    return planes.transpose(2, 1, 0), grid, tuple(reply["notes"])


def _limit_memory(voxels: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit = MEMORY_BESIDE_VOLUME + 16 * voxels
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    from medvit.data.dicom.read import plan, read_planned

    try:
        volume, notes = plan([Path(p) for p in request["paths"]], request["volume"])
        _limit_memory(int(np.prod(volume.stack.grid.shape)))
        image, grid, notes = read_planned(volume, notes, request["tilt"])
        np.save(folder / "planes.npy", image.transpose(2, 1, 0))
    except StudyError as error:
        path = None if error.path is None else str(error.path)
        return {
            "error": {"code": error.code, "what": error.what, "path": path, "do": error.do, "tag": error.tag}
        }
    except MemoryError:
        what = "reading the series takes more memory than its size warrants"
        return {"error": {"code": "dicom-too-large", "what": what, "path": request["paths"][0]}}
    return {"shape": grid.shape, "affine": grid.affine.tolist(), "notes": notes}


if __name__ == "__main__":
    json.dump(_answer(json.load(sys.stdin), Path(sys.argv[1])), sys.stdout)
