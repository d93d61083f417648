"""One bundle or peer of the bench in its own process: ``python -m medvit.bench.worker REQUEST.json``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from medvit.bench import costs
from medvit.bench.cache import write_record
from medvit.bundles import Bundle
from medvit.runs.bundle_work import BundleWork
from medvit.runs.outcome import StudyOutcome
from medvit.runs.record import software_versions
from medvit.studies import only_study
from medvit.studies.study import Study


def main(request_path: str) -> int:
    """Do what a request says, and write a record of each study, and of the costs, as soon as they are known.

    Returns
    -------
    int
        0, or 1 if the bundle cannot continue; the last line on stderr gives the reason.
    """
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    path, folder = Path(request["path"]), Path(request["folder"])
    try:
        if request["peer"]:
            from medvit.bench.brainchop import BrainchopWork

            _work(BrainchopWork(path, folder), folder, request)
        else:
            overrides = {"report": False} | request["overrides"]
            _work(BundleWork(Bundle(path), folder, overrides), folder, request)
    except Exception as error:
        failed = StudyOutcome(path.name)
        failed.fail(error)
        print(" ".join(failed.error.split()), file=sys.stderr)
        return 1
    return 0


class BenchWork(Protocol):
    """Loads a network once and segments one study after another."""

    @property
    def network(self) -> nn.Module:
        """The network, once it is loaded."""

    def open(self) -> None:
        """Load the network."""

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Segment `study` and write its label map; the result is noted in `outcome`."""


def _work(work: BenchWork, folder: Path, request: dict[str, Any]) -> None:
    work.open()
    network = work.network
    for wanted in request["studies"]:
        study = replace(only_study(wanted["image"]), id=wanted["id"])
        with costs.watched_shapes(network) as shapes:
            outcome = _perform(work, study)
        timed = wanted["cost_key"] and outcome.status == "done"
        measured = _time(work, study, request["rounds"]) if timed else {}
        write_record(folder / f"{study.id}.json", wanted["key"], outcome.as_dict())
        if timed:
            measured |= _operations(network, shapes)
            write_record(folder / "costs.json", wanted["cost_key"], measured)


def _perform(work: BenchWork, study: Study) -> StudyOutcome:
    outcome = StudyOutcome(study.id)
    try:
        work.perform(study, outcome)
    except Exception as error:
        outcome.fail(error)
    return outcome


def _time(work: BenchWork, study: Study, rounds: int) -> dict[str, Any]:
    """Costs of `study`, measured `rounds` times after a warm-up run."""
    times, cpu_times = [], []
    for _ in range(rounds):
        started = time.process_time()
        times.append(_perform(work, study).seconds)
        cpu_times.append(time.process_time() - started)
    device = costs.device_of(work.network)
    return {
        "study": study.id,
        "seconds": statistics.median(sum(t.values()) for t in times),
        "rounds_seconds": [round(sum(t.values()), 3) for t in times],
        "cpu_seconds": statistics.median(cpu_times),
        "infer_seconds": statistics.median(t["infer"] for t in times),
        "peak_mb": costs.peak_memory_mb(),
        "peak_gpu_mb": costs.peak_gpu_memory_mb(device),
        "machine": costs.machine(device),
        "software": software_versions(),
    }


def _operations(network: nn.Module, shapes: Counter[tuple[int, ...]]) -> dict[str, Any]:
    """Parameters, and GFLOPs of one window, the commonest, and of all that went through the network."""
    each = {shape: costs.gflops(network, shape) for shape in shapes}
    window = shapes.most_common(1)[0][0]
    return {
        "parameters": costs.parameters(network),
        "window": list(window),
        "window_gflops": each[window] / window[0],
        "study_gflops": sum(each[shape] * count for shape, count in shapes.items()),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
