"""The bench as work for the runner: a bundle or peer segments studies, and one of them is timed."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from medvit.bench import costs
from medvit.bench.cache import write_record
from medvit.runs.outcome import StudyOutcome
from medvit.runs.record import software_versions
from medvit.runs.work import Work
from medvit.studies import Study

COSTS = "costs.json"


class Segmenting(Work, Protocol):
    """Work of a network on one study after another."""

    @property
    def network(self) -> nn.Module:
        """The network, once it is loaded."""


@dataclass
class BenchWork:
    """The work of a bundle or peer; the costs of one study are recorded in ``costs.json``.

    Parameters
    ----------
    segmenting
        The work.
    timed
        Id of the study to time; empty where the costs are known.
    cost_key
        Key of the record of the costs.
    rounds
        Number of times that the study is timed, after one warm-up.
    """

    segmenting: Segmenting
    timed: str = ""
    cost_key: str = ""
    rounds: int = 1

    def __post_init__(self) -> None:
        self.output_dir: Path = self.segmenting.output_dir
        self.preload: tuple[str, ...] = self.segmenting.preload

    def open(self) -> None:
        """Load the network."""
        self.segmenting.open()

    def made_by(self) -> dict[str, Any]:
        """Weights and settings."""
        return self.segmenting.made_by()

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Segment `study`, and time it where that is asked for."""
        network = self.segmenting.network
        with costs.watched_shapes(network) as shapes:
            self.segmenting.perform(study, outcome)
        if study.id == self.timed and outcome.status == "done":
            # The operations are counted last: that takes memory that inference does not.
            measured = self._time(study)
            measured |= _operations(network, shapes)
            write_record(self.output_dir / COSTS, self.cost_key, measured)

    def _time(self, study: Study) -> dict[str, Any]:
        times, cpu_times = [], []
        for _ in range(self.rounds):
            started, again = time.process_time(), StudyOutcome(study.id)
            self.segmenting.perform(study, again)
            times.append(again.seconds)
            cpu_times.append(time.process_time() - started)
        device = costs.device_of(self.segmenting.network)
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
