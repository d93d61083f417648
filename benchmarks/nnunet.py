"""nnU-Net v2 on a data set in the Decathlon's layout, on the CPU, with the same held-out cases as medvit's.

    python benchmarks/nnunet.py Task04_Hippocampus WORK --epochs 8 --steps 25

It makes an environment of its own in WORK with nnunetv2 from PyPI, which shares nothing with medvit's, writes
the data set in nnU-Net's layout there (links to the images), holds out every fifth case, plans, trains
`epochs` times `steps` optimiser steps of nnU-Net's own plan, and predicts the held-out cases. Dice, volumes
and CPU seconds go to the terminal. nnU-Net's own 1,000 epochs of 250 steps are days on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

NAME = "Dataset004_Hippocampus"
# Runs in nnU-Net's own environment.
DRIVER = """
import sys, torch
from nnunetv2.run.run_training import get_trainer_from_args
torch.set_num_threads(1)
trainer = get_trainer_from_args(sys.argv[1], "3d_fullres", 0, device=torch.device("cpu"))
trainer.num_epochs, trainer.num_iterations_per_epoch = int(sys.argv[2]), int(sys.argv[3])
trainer.num_val_iterations_per_epoch = 1
trainer.run_training()
trainer.perform_actual_validation(False)
print(trainer.output_folder)
"""


def lay_out(data: Path, work: Path) -> dict[str, list[str]]:
    """Write the raw data set and the split in nnU-Net's layout.

    Parameters
    ----------
    data
        Folder with ``imagesTr``, ``labelsTr`` and the Decathlon's ``dataset.json``.
    work
        Folder that takes ``raw`` and ``preprocessed``.

    Returns
    -------
    dict
        Ids of the cases to ``train`` on and of those held out, ``val``: every fifth in order of ids.
    """
    listed: dict[str, Any] = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    raw = work / "raw" / NAME
    ids = sorted(f.name.removesuffix(".nii.gz") for f in (data / "imagesTr").glob("[!.]*.nii.gz"))
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        for case in ids:
            link = raw / folder / f"{case}{'_0000' if folder == 'imagesTr' else ''}.nii.gz"
            link.unlink(missing_ok=True)
            link.symlink_to((data / folder / f"{case}.nii.gz").resolve())
    described = {
        "channel_names": listed["modality"],
        "labels": {name: int(value) for value, name in listed["labels"].items()},
        "numTraining": len(ids),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    held_out = ids[4::5]
    split = {"train": [case for case in ids if case not in held_out], "val": held_out}
    preprocessed = work / "preprocessed" / NAME
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "splits_final.json").write_text(json.dumps([split]), encoding="utf-8")
    return split


def score(predicted: Path, drawn: Path, cases: list[str]) -> list[dict[str, float]]:
    """Mean Dice and mean error of the volume of each label over the cases."""
    rows = []
    for case in cases:
        a, b = (np.asarray(nib.load(f / f"{case}.nii.gz").dataobj) for f in (predicted, drawn))  # type: ignore[attr-defined]
        rows.append(
            [
                (
                    2 * ((a == k) & (b == k)).sum() / max((a == k).sum() + (b == k).sum(), 1),
                    (a == k).sum(),
                    (b == k).sum(),
                )
                for k in range(1, int(b.max()) + 1)
            ]
        )
    means = np.mean(rows, axis=0)
    return [{"dice": float(d), "volume_error": float(v / w - 1)} for d, v, w in means]


def main() -> None:
    """Lay out, plan, train, score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    chosen = parser.parse_args()
    work = chosen.work.absolute()
    split = lay_out(chosen.data, work)
    binaries = work / "environment" / "bin"
    if not (binaries / "nnUNetv2_train").exists():
        venv.create(work / "environment", with_pip=True)
        subprocess.run([binaries / "python", "-m", "pip", "install", "-q", "nnunetv2"], check=True)
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    environment = (
        os.environ | folders | {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
    )
    plan = [
        binaries / "nnUNetv2_plan_and_preprocess",
        "-d",
        "4",
        "-c",
        "3d_fullres",
        "-np",
        "1",
        "-npfp",
        "1",
    ]
    subprocess.run(plan, env=environment, check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    train = [binaries / "python", "-c", DRIVER, NAME, str(chosen.epochs), str(chosen.steps)]
    subprocess.run(train, env=environment, check=True, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    [folder] = (work / "results" / NAME).glob("*/fold_0/validation")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"training and prediction: {seconds:.0f} CPU s")
    for label, figures in enumerate(score(folder, chosen.data / "labelsTr", split["val"]), start=1):
        print(f"label {label}: Dice {figures['dice']:.3f}, volume {100 * figures['volume_error']:+.1f} %")


if __name__ == "__main__":
    main()
