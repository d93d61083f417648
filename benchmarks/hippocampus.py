"""Networks trained by `medvit train` on the same hippocampi, in the same windows, for the same CPU time.

    python benchmarks/hippocampus.py Task04_Hippocampus WORK --minutes 6 SegFormer3D SwinUNETR

Every fifth case in order of ids is held out, as in `benchmarks/nnunet.py`; no weights are chosen by it: the
last ones count. The clock of a training is this process's CPU time, so that other work on the machine does
not shorten it. What was measured stands in ``WORK/journal.jsonl`` and is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

# Before the trainings' modules are imported: they read the clock by this name.
time.perf_counter = time.process_time

import torch  # noqa: E402
from _hippocampi import (  # noqa: E402
    case_ids,
    held_out_of,
    make_room,
    mean_scores,
    note,
    predictions,
    read_journal,
    write_subset,
)

from medvit.bundles import Bundle, open_bundle  # noqa: E402
from medvit.datasets import find_cases, read_manifest  # noqa: E402
from medvit.errors import MedvitError  # noqa: E402
from medvit.training import Choices, find_base, train_bundle  # noqa: E402
from medvit.training.architectures import NETWORKS, SLICEWISE  # noqa: E402
from medvit.training.cases import WholeCases  # noqa: E402

WINDOW, BATCH = (48, 64, 48), 2
# Edges of its windows are multiples of 32, one of them at least 64.
OWN_WINDOW = {"SwinUNETR": (64, 64, 64)}


def measure(name: str, data: Path, work: Path, minutes: float, size: str) -> dict[str, Any]:
    """Train one network or bundle and score it on the held-out cases."""
    content = json.loads((data / "dataset.json").read_text())
    ids = set(case_ids(content))
    held_out = held_out_of(ids)
    subset, output = work / "subset.json", work / name
    write_subset(content, ids - held_out, subset)
    make_room(output)
    slices = name in SLICEWISE
    choices = Choices(
        spacing=(1.0, 1.0, 1.0), patch_size=None if slices else OWN_WINDOW.get(name, WINDOW),
        batch_size=None if slices else BATCH, minutes=minutes, val_fraction=0, mirror=True, device="cpu",
    )  # fmt: skip
    started = time.process_time()
    bundle = train_bundle(
        find_base(name, size=size if name in NETWORKS else None), subset, output, choices, data=data
    )
    assert bundle is not None
    trained = time.process_time()
    row = {"name": name, "size": size, "training_seconds": round(trained - started)}
    found = scores(bundle, data, held_out)
    return row | found | {"seconds_a_case": (time.process_time() - trained) / len(held_out)}


def scores(bundle: Bundle, data: Path, held_out: set[str]) -> dict[str, Any]:
    """Mean Dice and bias of the mean volume (%) of each structure in the held-out cases."""
    manifest = read_manifest(data / "dataset.json")
    opened = open_bundle(bundle, device="$torch.device('cpu')")
    cases = [case for case in find_cases(manifest, data) if case.id in held_out]
    whole = WholeCases(cases, manifest, opened.part("preprocessing"))
    assert manifest.labels is not None
    pairs = predictions(opened, (whole[number] for number in range(len(whole))))
    parameters = sum(p.numel() for p in opened.part("network").parameters())
    structures = {structure.name: structure.value for structure in manifest.labels}
    return {"parameters": parameters} | mean_scores(pairs, structures)


def main() -> None:
    """Train what the journal does not hold, and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Task04 with its dataset.json")
    parser.add_argument("work", type=Path, help="folder for the bundles and the journal")
    parser.add_argument("networks", nargs="+", help="networks by name, or bundles to start from")
    parser.add_argument("--minutes", type=float, default=6, help="CPU minutes of each training")
    parser.add_argument("--size", default="tiny", help="size of networks given by name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    journal = arguments.work / "journal.jsonl"
    done = {row["name"] for row in read_journal(journal)}
    for name in arguments.networks:
        if name not in done:
            try:
                row = measure(
                    name, arguments.data, arguments.work.absolute(), arguments.minutes, arguments.size
                )
            except MedvitError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            note(journal, row)
    print(journal.read_text())


if __name__ == "__main__":
    main()
