"""Read 300 slices of 512 x 512 JPEG 2000: medvit's DICOM reader beside MONAI's PydicomReader.

Each reader runs in a process of its own on one thread, in turn, and the least time of the rounds counts::

    python benchmarks/dicom_read.py --slices 300 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

_PREAMBLE = """
import json, resource, sys, time
folder = sys.argv[1]
def usage():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
def report(image, before):
    now = usage()
    result = {"s": now[0] - before[0], "cpu": now[1] - before[1], "peak": now[2], "base": before[2]}
    print(json.dumps({**result, "sum": float(image.sum())}))
"""
READERS = {
    "medvit": """
from pathlib import Path
from medvit.studies.dicom import read, scan
before = usage()
image, grid, notes = read(scan(Path(folder).iterdir()).series[0])
report(image, before)
""",
    "MONAI PydicomReader": """
from monai.data import PydicomReader
before = usage()
reader = PydicomReader()
image, meta = reader.get_data(reader.read(folder))
report(image, before)
""",
}


def write_series(folder: Path, slices: int, patterns: int = 20) -> None:
    """A noisy phantom; `patterns` different images, in turn, as encoding takes longer than decoding."""
    random = np.random.default_rng(0)
    row, column = np.mgrid[-1:1:512j, -1:1:512j]
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    body = ((row / 0.6) ** 2 + (column / 0.85) ** 2 < 1) * 1000
    encoded = []
    for k in range(min(patterns, slices)):
        organ = ((row - 0.1) ** 2 + (column - k / 40) ** 2 < 0.05) * 80
        stored = np.clip(body + organ + random.normal(20, 15, body.shape), 0, 4095).astype("<u2")
        ds = Dataset()
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = 512, 512, 1, 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PhotometricInterpretation, ds.SOPClassUID, ds.Modality = "MONOCHROME2", CTImageStorage, "CT"
        ds.ImageType, ds.PatientID = ["ORIGINAL", "PRIMARY", "AXIAL"], "P"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.75, 0.75]
        ds.RescaleSlope, ds.RescaleIntercept, ds.SliceThickness = 1, -1024, 1
        ds.PixelData = stored.tobytes()
        ds["PixelData"].VR = "OW"
        ds.SOPInstanceUID = generate_uid()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(JPEG2000Lossless)
        encoded.append(ds)
    for k in range(slices):
        ds = encoded[k % patterns]
        ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), k + 1
        ds.ImagePositionPatient = [-192, -192, k]
        ds.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)


def measure(code: str, folder: Path) -> dict[str, float]:
    """Seconds, and peak and starting memory in MB, of one reader in a fresh process."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "ignore", "-c", _PREAMBLE + code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        write_series(Path(name), arguments.slices)
        for _ in range(arguments.rounds):
            for reader, code in READERS.items():
                found = measure(code, Path(name))
                known = best.setdefault(reader, found)
                best[reader] = {k: min(known[k], found[k]) for k in found}
    ours, theirs = best["medvit"], best["MONAI PydicomReader"]
    assert np.isclose(ours["sum"], theirs["sum"], rtol=1e-5), "the two readers do not read the same voxels"
    print("| reader | time, s | CPU, s | memory, MB | of it before reading, MB |")
    print("| --- | --- | --- | --- | --- |")
    for reader, row in best.items():
        print(f"| {reader} | {row['s']:.1f} | {row['cpu']:.1f} | {row['peak']:.0f} | {row['base']:.0f} |")
    beyond = (ours["peak"] - ours["base"]) / (theirs["peak"] - theirs["base"])
    ratios = {key: ours[key] / theirs[key] for key in ("s", "cpu", "peak")}
    print(f"\nmedvit: {ratios['s']:.2f} x the time, {ratios['cpu']:.2f} x the CPU time,")
    print(f"{ratios['peak']:.2f} x the memory ({beyond:.2f} x of what is taken beyond the imports)")


if __name__ == "__main__":
    main()
