"""A listener to kill: its process turns each instance of a study into one small DICOM result."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from medvit.runs.listener import Processed, listen
from medvit.studies.association import Node
from medvit.studies.files import atomic_path


def process(study: Path, output: Path) -> Processed:
    """A result for each instance, under a UID that follows from it."""
    results = []
    for path in images_of(study):
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID = generate_uid(entropy_srcs=[str(image.SeriesInstanceUID)])
        image.SOPInstanceUID = result_of(str(image.SOPInstanceUID))
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        results.append(output / "results" / study.name / path.name)
        time.sleep(0.02)
        with atomic_path(results[-1]) as partial:
            image.save_as(partial)
    return Processed(results)


def images_of(study: Path) -> list[Path]:
    """What has been received whole."""
    return sorted(path for path in study.rglob("*.dcm") if not path.name.startswith("."))


def result_of(instance: str) -> str:
    return str(generate_uid(entropy_srcs=["result", instance]))


if __name__ == "__main__":
    folder, ours, theirs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    listen(
        folder, lambda study: process(study, folder), port=ours, settle=0.3,
        receiver=Node("ARCHIVE", "127.0.0.1", theirs, timeout=5.0), say=lambda text: None,
    )  # fmt: skip
