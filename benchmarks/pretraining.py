"""Whether pre-training without labels pays: hippocampi by a few labelled cases, from several starts.

`medvit pretrain` sees the images of all cases but those to test on; `medvit train` then sees 5, 10, 20 or 100
labelled ones (`--sizes`). The arms take the same steps on the same cases with the same seeds, and the last
weights count: nothing is chosen on the test cases. The control takes as many steps more as the pre-training
had. What is done stands in a journal, so the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _hippocampi import make_room, note, predictions, read_journal, write_subset

from medvit.bundles import Bundle, find_bundle, open_bundle
from medvit.datasets import Case, find_cases, read_manifest
from medvit.errors import MedvitError
from medvit.metrics import dice, hd95
from medvit.training import (
    Choices,
    PretrainingChoices,
    find_base,
    pretrain_bundle,
    read_encoder,
    train_bundle,
)
from medvit.training.cases import WholeCases

BASE = "segformer3d_brain"
WINDOW, BATCH = (32, 48, 32), 2
SIZES = (5, 10, 20, 100)
# Each arm: whether it starts without the bundle's weights, what its encoder was pre-trained from, and whether
# it gets the steps of the pre-training as well.
ARMS: dict[str, tuple[bool, str, bool]] = {
    "scratch": (True, "", False),
    "pre-trained": (True, "scratch", False),
    "brain weights": (False, "", False),
    "both": (False, "weights", False),
    "scratch, more steps": (True, "", True),
}


class Study:
    """The cases, the pre-trained encoders and the journal of the comparison.

    Parameters
    ----------
    data
        Folder of Task04 of the Medical Segmentation Decathlon, with its ``dataset.json``.
    folder
        Folder for encoders, bundles in training and the journal.
    steps, pretraining
        Optimiser steps of each training and of each pre-training.
    """

    def __init__(self, data: Path, folder: Path, steps: int, pretraining: int) -> None:
        self.data, self.folder, self.steps, self.pretraining = data, folder, steps, pretraining
        self.content = json.loads((data / "dataset.json").read_text())
        self.manifest = read_manifest(data / "dataset.json")
        cases = find_cases(self.manifest, data)
        by_hash = sorted(cases, key=lambda case: hashlib.sha256(case.id.encode()).hexdigest())
        self.test, self.others = by_hash[: len(cases) // 5], by_hash[len(cases) // 5 :]
        self.journal = folder / "journal.jsonl"
        self.prepared: list[dict[str, torch.Tensor]] = []

    def done(self) -> list[dict[str, Any]]:
        """The trainings that were measured with these numbers of steps; the journal may hold others."""
        return [row for row in read_journal(self.journal) if row["steps"] == self.steps_of(row["arm"])]

    def steps_of(self, arm: str) -> int:
        """Steps that an arm is trained for."""
        return self.steps + (self.pretraining if ARMS[arm][2] else 0)

    def encoder(self, start: str) -> Path:
        """The encoder that was pre-trained on all images but those to test on."""
        file = self.folder / f"encoder_{start}.safetensors"
        if not file.is_file():
            choices = PretrainingChoices(
                steps=self.pretraining, batch_size=BATCH, patch_size=WINDOW, start=start, device="cpu"
            )
            images = [str(case.images[0]) for case in self.others]
            resume = file.with_name(f"{file.name}.pretraining").is_dir()
            pretrain_bundle(find_bundle(BASE), images, file, choices, resume=resume)
        elif (steps := read_encoder(file)[1].steps) != self.pretraining:
            raise MedvitError(f"{file} was pre-trained for {steps} steps: give another folder")
        return file

    def measure(self, arm: str, count: int, draw: int) -> None:
        """Train one arm on `count` cases and put its scores on the journal."""
        from_scratch, start, _ = ARMS[arm]
        steps = self.steps_of(arm)
        base = find_base(BASE, from_scratch=from_scratch, pretrained=self.encoder(start) if start else None)
        chosen = {case.id for case in self.drawn(count, draw)}
        subset, output = self.folder / "subset.json", self.folder / "bundle"
        write_subset(self.content, chosen, subset)
        make_room(output)
        choices = Choices(
            spacing=(1.0, 1.0, 1.0), patch_size=WINDOW, epochs=1, epoch_length=steps, batch_size=BATCH,
            val_fraction=0, patience=0, seed=draw, device="cpu",
        )  # fmt: skip
        started = time.process_time()
        bundle = train_bundle(base, subset, output, choices, data=self.data)
        assert bundle is not None
        seconds = time.process_time() - started
        row = {"arm": arm, "cases": count, "draw": draw, "steps": steps, "cpu_seconds": round(seconds)}
        note(self.journal, row | self.scores(bundle))

    def drawn(self, count: int, draw: int) -> list[Case]:
        """The labelled cases of a draw; a larger number contains the smaller ones."""
        order = np.random.default_rng(draw).permutation(len(self.others))
        return [self.others[number] for number in order[:count]]

    def scores(self, bundle: Bundle) -> dict[str, dict[str, list[float]]]:
        """Dice and HD95 (mm) of each structure in each test case."""
        opened = open_bundle(bundle, device="$torch.device('cpu')")
        if not self.prepared:
            whole = WholeCases(self.test, self.manifest, opened.part("preprocessing"))
            self.prepared = [whole[number] for number in range(len(whole))]
        assert self.manifest.labels is not None
        found: dict[str, dict[str, list[float]]] = {"dice": defaultdict(list), "hd95": defaultdict(list)}
        for labels, reference in predictions(opened, self.prepared):
            for structure in self.manifest.labels:
                masks = labels == structure.value, reference == structure.value
                found["dice"][structure.name].append(dice(*masks))
                # A structure that was missed altogether has no distance.
                distance = hd95(*masks, (1.0, 1.0, 1.0)) if masks[0].any() else float("nan")
                found["hd95"][structure.name].append(distance)
        return found

    def open_work(self, draws: int, sizes: Sequence[int] = SIZES) -> Iterator[tuple[str, int, int]]:
        """What is not measured yet: first draws first, of each the two arms that answer the question, and
        the longest last.

        A hundred cases and more are drawn once.
        """
        measured = {(row["arm"], row["cases"], row["draw"]) for row in self.done()}
        names = tuple(ARMS)
        for draw in range(draws):
            counts = [count for count in sizes if draw == 0 or count < 100]
            for arms in (names[:2], names[2:-1], names[-1:]):
                work = ((arm, count, draw) for count in counts for arm in arms)
                yield from (one for one in work if one not in measured)


def interval(differences: np.ndarray, rounds: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (draws, cases), both drawn anew."""
    random = np.random.default_rng(0)
    draws, cases = differences.shape
    means = [
        differences[np.ix_(random.integers(draws, size=draws), random.integers(cases, size=cases))].mean()
        for _ in range(rounds)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table(rows: list[dict[str, Any]]) -> str:
    """Mean scores of each arm, and its difference in Dice from scratch, as a Markdown table."""
    structures = list(rows[0]["dice"]) if rows else []
    titles = [
        "labelled cases", "arm", "draws", *(f"Dice, {s}" for s in structures),
        *(f"HD95, {s} (mm)" for s in structures), "difference from scratch",
    ]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"| {' | '.join('---' for _ in titles)} |"]
    for count in sorted({row["cases"] for row in rows}):
        for arm in ARMS:
            own = {r["draw"]: r for r in rows if r["cases"] == count and r["arm"] == arm}
            if not own:
                continue
            means = [
                f"{np.nanmean([r[metric][s] for r in own.values()]):.{digits}f}"
                for metric, digits in (("dice", 3), ("hd95", 2)) for s in structures
            ]  # fmt: skip
            scratch = {r["draw"]: r for r in rows if r["cases"] == count and r["arm"] == "scratch"}
            gain = _gain(own, scratch) if arm != "scratch" else ""
            lines.append(f"| {count} | {arm} | {len(own)} | {' | '.join(means)} | {gain} |")
    return "\n".join(lines)


def _gain(own: dict[int, dict[str, Any]], scratch: dict[int, dict[str, Any]]) -> str:
    """Mean paired difference in Dice with its interval, over the draws that both have."""
    both = sorted(set(own) & set(scratch))
    if not both:
        return "not measured"
    mean: Callable[[dict[str, Any]], np.ndarray] = lambda row: np.mean(list(row["dice"].values()), axis=0)  # noqa: E731
    differences = np.array([mean(own[draw]) - mean(scratch[draw]) for draw in both])
    low, high = interval(differences)
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Measure what is open until the minutes are used up, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of Task04 with its dataset.json")
    parser.add_argument("folder", type=Path, help="folder for encoders and the journal")
    parser.add_argument("--minutes", type=float, default=60, help="CPU minutes after which nothing is begun")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pretraining-steps", type=int, default=800)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labelled cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    study = Study(arguments.data, arguments.folder.absolute(), arguments.steps, arguments.pretraining_steps)
    for work in study.open_work(arguments.draws, arguments.sizes):
        if time.process_time() > 60 * arguments.minutes:
            break
        study.measure(*work)
        print(f"{work}: {time.process_time() / 60:.1f} CPU min in all", flush=True)
    print(table(study.done()))


if __name__ == "__main__":
    main()
