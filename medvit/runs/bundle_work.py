"""The work of a bundle: its workflow built once in a process, then one study after another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles import Bundle
from medvit.errors import MedvitError, StudyError, WeightsError
from medvit.runs.done import input_sha256, input_stamps
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Found, Study

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medvit.bundles import OpenBundle
    from medvit.inference import InferenceReport
    from medvit.runs.dataset import StudyDataset
    from medvit.runs.folder import StudyWriter
    from medvit.runs.pipeline import StudyPipeline

# Receives the number of finished windows of a study, and the number of all.
WindowListener = Callable[[int, int], None]


class StoppedError(MedvitError):
    """The run was interrupted while the study was being processed."""


@dataclass
class PipelineWork:
    """Processes studies with the pipeline of a configuration.

    Studies may come from several threads: one is read while another is inferred and a third one written, but
    no stage works on two at a time, so that memory stays bounded.

    Parameters
    ----------
    pipeline, dataset
        Pipeline and dataset of the configuration, with network and writer.
    output_dir
        Absolute folder of the results.
    """

    pipeline: StudyPipeline
    dataset: StudyDataset
    output_dir: Path
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._reading, self._inferring, self._finishing = (threading.Lock() for _ in range(3))
        self._stopped = threading.Event()
        self._windows: WindowListener | None = None
        self._made_by: dict[str, Any] = {}

    @property
    def writer(self) -> StudyWriter:
        """The writer of the results.

        Raises
        ------
        MedvitError
            If the configuration has no writer.
        """
        if self.pipeline.writer is None:
            raise MedvitError(
                "the configuration has no writer; a run needs one, or its results would be lost"
            )
        return self.pipeline.writer

    def check(self) -> None:
        """Refuse a precision or a backend that the device lacks.

        Raises
        ------
        MedvitError
            If it does.
        """
        self.pipeline.inferer.execution.check(self.device)

    def open(self) -> None:
        """Start to watch the inference with the network, which the configuration has loaded.

        Raises
        ------
        MedvitError
            As `check` does.
        """
        self.check()
        self.pipeline.inferer.watch = self._after_windows

    def made_by(self) -> dict[str, Any]:
        """Bundle, configuration, weights and settings."""
        self._made_by = self._made_by or self.writer.made_by()
        return self._made_by

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.pipeline.device

    def watch_windows(self, listener: WindowListener) -> None:
        """Tell `listener` about each window that is done."""
        self._windows = listener

    def stop(self) -> None:
        """Let the study that is being inferred fail at its next window."""
        self._stopped.set()

    def close(self) -> None:
        """Free the GPU memory that the network holds besides its weights."""
        from medvit.inference.graphs import release_recordings

        release_recordings(self.pipeline.network)

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Read, infer and write `study`.

        Raises
        ------
        StudyError
            If the input changed while it was read.
        """
        with self._reading:
            self._check_stopped()
            before = _stamps(study)
            # Read here, so that the reader finds it in memory; the reader reports read errors.
            with outcome.timed("read"), contextlib.suppress(OSError, StudyError):
                outcome.inputs = input_sha256(study)
            item = self.dataset.prepare(study, outcome, self.device)
            if item.image is not None and (not outcome.inputs or _stamps(study) != before):
                what = "changed while it was read"
                raise StudyError("input-changed", what, path=study.path, do="run it again")
            self.writer.foresee(item.study, outcome)
        with self._inferring:
            prediction = self.pipeline.infer(item)
        with self._finishing:
            self._check_stopped()
            self.pipeline.finish(item, prediction)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError("the run was interrupted")

    def _after_windows(self, report: InferenceReport) -> None:
        if self._windows is not None:
            done = report.skipped + report.forward_passes
            self._windows(done, max(report.windows, done))
        self._check_stopped()


@dataclass
class BundleWork:
    """Processes studies with the inference workflow of a bundle.

    Parameters
    ----------
    bundle
        Bundle from `medvit.bundles.find_bundle`.
    output_dir
        Absolute folder of the results.
    overrides
        Values of the configuration to replace, by identifier.
    threads
        Largest number of torch threads in each worker; 0 leaves it to torch.
    """

    bundle: Bundle
    output_dir: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    preload: tuple[str, ...] = field(default=("medvit.runs.pipeline",), init=False, repr=False)
    _configuration: OpenBundle | None = field(default=None, init=False, repr=False)
    _opened: PipelineWork | None = field(default=None, init=False, repr=False)
    _made_by: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def find(self, inputs: Sequence[str | Path]) -> Found:
        """The studies in `inputs`, by the rules of the bundle."""
        self._configuration = self._configured(inputs)
        return self._configuration.part("dataset").found

    def check(self) -> None:
        """Refuse a precision or a backend that the device lacks, before anything is loaded or written.

        Raises
        ------
        MedvitError
            If it does.
        """
        self._configuration = self._configuration or self._configured([])
        self._configuration.part("inferer").execution.check(self._configuration.part("device"))

    def open(self) -> None:
        """Load the network."""
        import torch

        from medvit.runs.pipeline import StudyPipeline

        if self.threads:
            torch.set_num_threads(min(self.threads, torch.get_num_threads()))
        opened = self._configuration = self._configuration or self._configured([])
        self._opened = PipelineWork(StudyPipeline.of(opened), opened.part("dataset"), self.output_dir)
        self._opened.open()

    @property
    def opened(self) -> PipelineWork:
        """The work with its network, once that is loaded."""
        assert self._opened is not None, "a worker opens its work first"
        return self._opened

    @property
    def network(self) -> nn.Module:
        """The network, once it is loaded."""
        return self.opened.pipeline.network

    @property
    def device(self) -> torch.device:
        """Where the network runs, once it is loaded."""
        return self.opened.device

    @property
    def writer(self) -> StudyWriter:
        """The writer of the results; without the network if that is not loaded.

        Raises
        ------
        WeightsError
            If the bundle has no weights.
        """
        if self._configuration is None:
            self._configuration = self._configured([])
        writer: StudyWriter = self._configuration.part("writer")
        if not writer.checkpoint.is_file():
            raise WeightsError(f"{writer.checkpoint}: bundle {self.bundle.name} has no weights")
        return writer

    def made_by(self) -> dict[str, Any]:
        """Bundle, configuration, weights and settings."""
        self._made_by = self._made_by or self.writer.made_by()
        return self._made_by

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Read, infer and write `study`."""
        self.opened.perform(study, outcome)

    def watch_windows(self, listener: WindowListener) -> None:
        """Same as in `PipelineWork`, once it is open."""
        self.opened.watch_windows(listener)

    def stop(self) -> None:
        """Same as in `PipelineWork`, once it is open."""
        self.opened.stop()

    def close(self) -> None:
        """Same as in `PipelineWork`, once it is open."""
        self.opened.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_configuration": None, "_opened": None}

    def _configured(self, inputs: Sequence[str | Path]) -> OpenBundle:
        from medvit.bundles import open_bundle

        return open_bundle(
            self.bundle,
            input=[str(Path(i).absolute()) if Path(i).exists() else str(i) for i in inputs],
            output_dir=str(self.output_dir),
            # Equal studies must have equal results, however often a run was interrupted.
            timings=False,
            **self.overrides,
        )


def _stamps(study: Study) -> list[list[Any]]:
    try:
        return input_stamps(study)
    except (OSError, StudyError):
        return []
