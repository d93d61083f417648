"""The process that reads a series for `isolated.read`: request on stdin, reply in a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom.reader import plan, read_planned

# Address space allowed in addition to several times the need of the volume itself.
MEMORY_BESIDE_VOLUME = 4 * 2**30


def _limit_memory(voxels: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit = MEMORY_BESIDE_VOLUME + 16 * voxels
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the requested series; the planes go to a file in the folder, everything else into the reply."""
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
    reply_to = Path(sys.argv[1])
    # To a file, since a decoder may print.
    (reply_to / "reply.json").write_text(json.dumps(answer(json.load(sys.stdin), reply_to)))
