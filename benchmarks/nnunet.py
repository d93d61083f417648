"""nnU-Net v2 on the hippocampi of the Decathlon, on one thread of a CPU, held out like medvit's.

    python benchmarks/nnunet.py Task04_Hippocampus WORK --minutes 20

It makes an environment of its own in WORK with nnunetv2 from PyPI, which shares nothing with medvit's, writes
the data set in nnU-Net's layout there (links to the images), and lets nnU-Net plan, preprocess, train and
predict. Training is nnU-Net's own for its plan ``3d_fullres``, but for the number and length of its epochs:
as many steps as fit into the CPU time, with its learning rate falling to the end. Every fifth case is held
out, as in `benchmarks/hippocampus.py`; the last weights count. Predictions are averaged over mirror
images, as nnU-Net does by default.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _hippocampi import case_ids, held_out_of, mean_scores

from medvit.studies.formats import read_label_map

NAME = "Dataset004_Hippocampus"
PLAN = ("-d", "4", "-c", "3d_fullres", "-np", "1", "-npfp", "1")


def lay_out(data: Path, work: Path) -> tuple[dict[str, int], list[str]]:
    """Write the raw data set and the split in nnU-Net's layout.

    Parameters
    ----------
    data
        Folder with ``imagesTr``, ``labelsTr`` and the Decathlon's ``dataset.json``.
    work
        Folder that takes ``raw`` and ``preprocessed``.

    Returns
    -------
    dict, list
        Values by the names of the structures, and ids of the held-out cases.
    """
    listed: dict[str, Any] = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    ids, raw = sorted(case_ids(listed)), work / "raw" / NAME
    for folder, channel in (("imagesTr", "_0000"), ("labelsTr", "")):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        for case in ids:
            link = raw / folder / f"{case}{channel}.nii.gz"
            link.unlink(missing_ok=True)
            link.symlink_to((data / folder / f"{case}.nii.gz").resolve())
    values = {name: int(value) for value, name in listed["labels"].items()}
    described = {
        "channel_names": listed["modality"], "labels": values, "numTraining": len(ids),
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    held_out = held_out_of(ids)
    split = {"train": [case for case in ids if case not in held_out], "val": sorted(held_out)}
    preprocessed = work / "preprocessed" / NAME
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "splits_final.json").write_text(json.dumps([split]), encoding="utf-8")
    return {name: value for name, value in values.items() if value}, split["val"]


def environment(work: Path) -> Path:
    """The folder of the programs of nnU-Net's environment, which is made if there is none."""
    binaries = work / "environment" / "bin"
    if not (binaries / "nnUNetv2_plan_and_preprocess").exists():
        torch = f"torch=={version('torch').partition('+')[0]}"
        venv.create(work / "environment", with_pip=True)
        subprocess.run([binaries / "python", "-m", "pip", "install", "-q", "nnunetv2", torch], check=True)
    return binaries


def measure(data: Path, work: Path, minutes: float) -> dict[str, Any]:
    """Figures of a training from its preprocessing to the scores."""
    structures, held_out = lay_out(data, work)
    binaries, figures = environment(work), work / "figures.json"
    variables = os.environ | {
        **{f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")},
        "OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f",
    }  # fmt: skip
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    run([binaries / "nnUNetv2_plan_and_preprocess", *PLAN], variables)
    planned = resource.getrusage(resource.RUSAGE_CHILDREN)
    driver = Path(__file__).with_name("_nnunet_train.py")
    run([binaries / "python", driver, NAME, str(minutes), figures], variables)
    row: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    predicted = Path(row.pop("predictions"))
    pairs = (
        tuple(read_label_map(folder / f"{case}.nii.gz").array for folder in (predicted, data / "labelsTr"))
        for case in held_out
    )
    seconds = planned.ru_utime + planned.ru_stime - started.ru_utime - started.ru_stime
    row["inference_seconds"] /= len(held_out)
    return {"name": "nnU-Net v2", "preprocessing_seconds": seconds} | row | mean_scores(pairs, structures)


def run(command: Sequence[str | Path], variables: dict[str, str]) -> None:
    """Run a command of nnU-Net; what it says goes to the error stream."""
    subprocess.run(list(command), env=variables, check=True, stdout=sys.stderr)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Task04 with its dataset.json")
    parser.add_argument("work", type=Path, help="folder for the environment, the data and the results")
    parser.add_argument("--minutes", type=float, default=20, help="CPU minutes of training")
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.data, chosen.work.absolute(), chosen.minutes)))


if __name__ == "__main__":
    main()
