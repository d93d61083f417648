"""Parts of the comparisons on the hippocampi of the Decathlon (Task04) that train on some of the cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvit.bundles import OpenBundle
from medvit.metrics import dice


def case_ids(content: dict[str, Any]) -> list[str]:
    """Ids of the labelled cases of a ``dataset.json``, in its order."""
    return [_id(case) for case in content["training"]]


def held_out_of(ids: Iterable[str]) -> set[str]:
    """Every fifth case in order of ids."""
    return set(sorted(ids)[4::5])


def write_subset(content: dict[str, Any], ids: Collection[str], file: Path) -> None:
    """Write a ``dataset.json`` whose labelled cases are those of `ids`."""
    listed = [case for case in content["training"] if _id(case) in ids]
    file.write_text(json.dumps(content | {"training": listed, "numTraining": len(listed)}))


def _id(case: dict[str, Any]) -> str:
    return Path(case["image"]).name.split(".")[0]


def make_room(output: Path) -> None:
    """Remove a bundle and its training, finished or not."""
    for left in (output, output.with_name(f"{output.name}.training")):
        shutil.rmtree(left, ignore_errors=True)


def predictions(
    opened: OpenBundle, samples: Iterable[dict[str, torch.Tensor]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Label map of each prepared case by the bundle's network, and the one that was drawn, (X, Y, Z)."""
    network, inferer = opened.part("network").eval(), opened.part("inferer")
    for sample in samples:
        with torch.no_grad():
            labels = inferer(sample["image"][None], network).squeeze().numpy()
        yield labels, sample["label"][0].numpy()


def mean_scores(
    pairs: Iterable[tuple[np.ndarray, ...]], structures: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Mean Dice and bias of the mean volume (%) of each structure.

    Parameters
    ----------
    pairs
        Predicted and drawn label map of each case.
    structures
        Values by name.
    """
    rows = []
    for predicted, drawn in pairs:
        masks = [(predicted == value, drawn == value) for value in structures.values()]
        rows.append([(dice(a, b), a.sum(), b.sum()) for a, b in masks])
    means = np.mean(rows, axis=0)
    return {
        "dice": dict(zip(structures, means[:, 0].tolist(), strict=True)),
        "bias": dict(zip(structures, (100 * (means[:, 1] / means[:, 2] - 1)).tolist(), strict=True)),
    }


def read_journal(file: Path) -> list[dict[str, Any]]:
    """The trainings that were measured."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def note(file: Path, row: dict[str, Any]) -> None:
    """Add a training to the journal."""
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
