"""Studies one after another in this process: `medvit run`, and the ``run`` of a bundle's configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.runs.bundle_work import BundleWork, PipelineWork
from medvit.runs.dataset import StudyDataset
from medvit.runs.dispatch import Executor
from medvit.runs.progress import RunProgress
from medvit.runs.run import run_work
from medvit.runs.work import Attempt, attempt
from medvit.studies import Found, Study

if TYPE_CHECKING:
    from medvit.runs.evaluator import StudyEvaluator


class SerialExecutor:
    """This process: while one study is inferred, the next one is read, or the one before it written.

    With a GPU, which needs no CPU meanwhile, both happen at once; at most three studies are in memory then.

    Parameters
    ----------
    work
        Work, which is opened here; an error in opening it is raised.
    progress
        Display that is informed of stages and windows.
    """

    def __init__(self, work: BundleWork | PipelineWork, progress: RunProgress) -> None:
        self._work, self._progress = work, progress
        work.open()
        work.watch_windows(progress.window)
        self.capacity = 2 if work.device.type == "cpu" else 3
        self._threads = ThreadPoolExecutor(self.capacity, thread_name_prefix="study")

    def submit(self, study: Study) -> Future[Attempt]:
        """Process `study` as soon as a thread is free."""
        return self._threads.submit(attempt, self._work, study, self._progress.listen)

    def close(self) -> None:
        """Let writing finish, and stop inference at its next window."""
        self._work.stop()
        self._threads.shutdown(cancel_futures=True)
        self._work.close()


def run_bundle(
    bundle: Bundle,
    inputs: Sequence[str | Path],
    output_dir: str | Path,
    *,
    resume: bool = True,
    overwrite: bool = False,
    **overrides: Any,
) -> int:
    """Run the inference workflow of a bundle, as ``python -m monai.bundle run`` does, in this process.

    Parameters
    ----------
    bundle
        Bundle from `medvit.bundles.find_bundle`.
    inputs
        Files, folders, globs or manifests.
    output_dir
        Folder of the results; an interrupted run continues here.
    resume, overwrite
        Same as in `medvit.runs.run_work`.
    overrides
        Values of the configuration to replace, by identifier.

    Returns
    -------
    int
        Same as in `medvit.runs.run_work`.

    Raises
    ------
    MedvitError
        If no study could be done, or earlier studies are to be compared with those of several patients.
    """
    work = BundleWork(bundle, Path(output_dir).absolute(), overrides)
    return _run(work, work.find(inputs), resume=resume, overwrite=overwrite, named=inputs)


def run_studies(evaluator: StudyEvaluator, dataset: StudyDataset, output_dir: str | Path) -> int:
    """Process a configuration's dataset with its evaluator: the last step of its ``run``.

    Parameters
    ----------
    evaluator, dataset
        Evaluator and dataset that the configuration built.
    output_dir
        Same as in `run_bundle`.

    Returns
    -------
    int
        Same as in `medvit.runs.run_work`.
    """
    work = PipelineWork(evaluator.pipeline, dataset, Path(output_dir).absolute())
    return _run(work, dataset.found)


def finish(exit_code: int) -> None:
    """End the process with `exit_code` where it is not 0; the last step of a bundle's ``run``."""
    if exit_code:
        sys.exit(exit_code)


def _run(work: BundleWork | PipelineWork, found: Found, **options: Any) -> int:
    patients = {study.patient.get("id") or study.id for study in found.studies}
    stated = work.writer.options
    if len(patients) > 1 and (stated.priors or stated.age is not None or stated.sex):
        raise MedvitError(
            "an earlier study, an age and a sex belong to one patient, and "
            f"{len(patients)} were found; run each separately"
        )

    work.check()

    def start(progress: RunProgress) -> Executor:
        return SerialExecutor(work, progress)

    return run_work(work, found, start, retries=0, **options)
