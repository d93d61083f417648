"""A cohort of made-up heads, eight of them bad: killed and resumed, or timed against a loop over single runs.

python benchmarks/cohort.py --studies 200 --kills 10 --workers 2   # the tree equals an undisturbed one?
python benchmarks/cohort.py --studies 8 --throughput --workers 2   # studies an hour; wants an idle machine
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

BUNDLE = "segformer3d_brain"


def head(seed: int, shape: tuple[int, int, int] = (40, 48, 40)) -> nib.Nifti1Image:
    """A head of nested ellipsoids with noise, 4 mm: one window of the network."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in shape], indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2) / rng.uniform(0.9, 1.0)
    image = np.select(
        [radius < 0.6, radius < 0.8, radius < 0.9, radius < 1.0], [110.0, 80.0, 20.0, 60.0], 0.0
    )
    made = nib.Nifti1Image((image + rng.normal(0, 4, shape)).astype(np.float32), np.diag([4.0, 4, 4, 1]))
    made.header.set_xyzt_units("mm")
    return made


def damage(path: Path, kind: int) -> None:
    """Spoil a file in one of eight ways."""
    whole = path.read_bytes()
    image = nib.nifti1.Nifti1Image.from_filename(path)
    data, affine = np.array(image.dataobj), image.affine
    if kind == 0:
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_text("not an image")
    elif kind == 3:  # one bit of the checksum
        path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    elif kind == 4:
        path.unlink()
        path.symlink_to("gone.nii.gz")
    elif kind == 5:
        nib.save(nib.Nifti1Image(np.full_like(data, np.nan), affine), path)
    elif kind == 6:
        nib.save(nib.Nifti1Image(np.stack([data] * 3, axis=-1), affine), path)
    else:  # a data type that does not exist
        raw = bytearray(image.to_bytes())
        raw[70:72] = (9999).to_bytes(2, "little")
        path.write_bytes(gzip.compress(bytes(raw)))


def make(folder: Path, studies: int, bad: int) -> None:
    """`studies` files, of which every so many is bad."""
    folder.mkdir(parents=True)
    for n in range(studies):
        nib.save(head(n), folder / f"head{n:03}.nii.gz")
    for kind in range(bad):
        damage(folder / f"head{(kind + 1) * studies // (bad + 1):03}.nii.gz", kind)


def command(verb: str, inputs: Path, output: Path, *options: str) -> list[str]:
    """A command line of medvit."""
    return [sys.executable, "-m", "medvit.cli.app", verb, BUNDLE, str(inputs), "-o", str(output), *options]


def tree(output: Path) -> dict[str, str]:
    """SHA-256 of every result; not of the journal and the record of the run, which tell times."""
    files = [p for p in output.rglob("*") if p.is_file() and p.name not in ("run.json", "failures.csv")]
    return {
        p.relative_to(output).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if ".cohort" not in p.parts
    }


def run_to_the_end(call: list[str]) -> tuple[int, float]:
    """Exit code and seconds of a command."""
    started = time.monotonic()
    code = subprocess.run(call, capture_output=True).returncode
    return code, time.monotonic() - started


def kill_and_resume(folder: Path, options: argparse.Namespace) -> None:
    """Kill a run again and again, resume it, and compare with one that was left alone."""
    given = ("--workers", str(options.workers), "--time-limit", "600", "--no-report")
    alone, killed = folder / "alone", folder / "killed"
    code, seconds = run_to_the_end(command("cohort", folder / "in", alone, *given))
    print(f"undisturbed: exit code {code}, {seconds:.0f} s", flush=True)
    again, rng = command("cohort", folder / "in", killed, *given), random.Random(0)
    for n in range(options.kills):
        process = subprocess.Popen(again, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(5, options.kill_within))
        process.kill()
        process.wait()
        print(f"kill {n + 1}: {len(list(killed.glob('*/done.json')))} done", flush=True)
    code, seconds = run_to_the_end(again)
    done = len(list(killed.glob("*/done.json")))
    failures = json.loads((killed / "run.json").read_text())["failures"]
    print(f"resumed: exit code {code}, {seconds:.0f} s, {done} done, {len(failures)} failed:")
    for failure in failures:
        print(f"  {failure['study']}: {failure['error']}")
    print("the trees are equal" if tree(alone) == tree(killed) else "THE TREES DIFFER")


def throughput(folder: Path, options: argparse.Namespace) -> None:
    """Studies an hour of a cohort and of a loop over single runs."""
    paths = sorted((folder / "in").iterdir())
    single = sum(run_to_the_end(command("run", path, folder / "single"))[1] for path in paths)
    workers = ("--workers", str(options.workers))
    _, together = run_to_the_end(command("cohort", folder / "in", folder / "together", *workers))
    print("| | studies an hour | times |\n| --- | ---: | ---: |")
    for name, seconds in (
        ("loop over single runs", single),
        (f"cohort, {options.workers} workers", together),
    ):
        print(f"| {name} | {3600 * len(paths) / seconds:.0f} | {single / seconds:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--bad", type=int, default=8, choices=range(9))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kill-within", type=float, default=60.0, help="seconds after which to kill at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--throughput", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medvit-cohort-") as folder:
        make(Path(folder, "in"), options.studies, 0 if options.throughput else options.bad)
        (throughput if options.throughput else kill_and_resume)(Path(folder), options)


if __name__ == "__main__":
    main()
