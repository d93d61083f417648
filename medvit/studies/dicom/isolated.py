"""Reading in a separate process, to which a crash, a hang or a memory bomb is confined."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.studies.scratch import scratch_folder
from medvit.studies.study import Grid, Series

COMMAND = ("-m", "medvit.studies.dicom.child")


def read(series: Series, tilt: str, timeout: float) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """As `medvit.studies.dicom.reader`, in a child process.

    Raises
    ------
    StudyError
        For a fault that the child found, or if it crashed or took longer than `timeout` seconds.
    """
    request = {
        "paths": [str(path.absolute()) for path in series.paths],
        "volume": str(series.facts.get("volume", "")),
        "tilt": tilt,
    }
    with scratch_folder() as folder:
        command = [sys.executable, *COMMAND, str(folder)]
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
        reply = json.loads(Path(folder, "reply.json").read_bytes())
        if "error" in reply:
            raise StudyError(**reply["error"])
        planes = np.load(Path(folder, "planes.npy"), allow_pickle=False)
    grid = Grid(tuple(reply["shape"]), np.array(reply["affine"]))
    return planes.transpose(2, 1, 0), grid, tuple(reply["notes"])
