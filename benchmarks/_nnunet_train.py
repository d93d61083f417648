"""nnU-Net's own plan, trained for a given CPU time on one thread; runs in nnU-Net's environment.

python _nnunet_train.py DATASET MINUTES FIGURES.json
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args

# Steps between two validations. Longer epochs could not be fitted to a few minutes.
STEPS = 10
# A validation of one batch, the curve's picture and a checkpoint, in steps.
OVERHEAD = 1.5


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def new_trainer(dataset: str) -> Any:
    """A trainer whose epochs are short."""
    trainer = get_trainer_from_args(dataset, "3d_fullres", 0, device=torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = STEPS, 1
    return trainer


def seconds_of_a_step(dataset: str) -> float:
    """CPU seconds of a step, measured on a trainer that is thrown away."""
    trainer = new_trainer(dataset)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    started = cpu_seconds()
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    return (cpu_seconds() - started) / 3


def main() -> None:
    """Train until the time is over and the learning rate at its end, and predict the held-out cases."""
    dataset, minutes, figures = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    # No processes for augmentation. The planning, which comes before, takes at least one.
    os.environ.update(nnUNet_n_proc_DA="0")
    torch.manual_seed(0)
    step = seconds_of_a_step(dataset)
    trainer = new_trainer(dataset)
    trainer.num_epochs = max(1, round(60 * minutes / (step * (STEPS + OVERHEAD))))
    started = cpu_seconds()
    trainer.run_training()
    trained = cpu_seconds()
    trainer.perform_actual_validation(False)
    row = {
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "steps": trainer.num_epochs * STEPS,
        "batch_size": trainer.batch_size,
        "training_seconds": trained - started,
        "inference_seconds": cpu_seconds() - trained,
        "predictions": str(Path(trainer.output_folder) / "validation"),
    }
    figures.write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()
