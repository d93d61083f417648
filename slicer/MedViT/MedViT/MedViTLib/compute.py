"""What the two ways to compute share: bundles to choose from, a result, and a job that can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import Cancelled, MedViTError
from .volume import Volume


@dataclass(frozen=True)
class BundleInfo:
    """A bundle, as a person chooses it: its name, what it does and how well."""

    name: str
    task: str = ""
    quality: str = ""


@dataclass(frozen=True)
class Result:
    """What a bundle made of a volume.

    Parameters
    ----------
    volume
        A label map, or the restored image in full precision.
    labels
        Names of the values 1, 2, ... of the label map; empty for a restored image.
    volumes_ml
        Volume of each structure.
    notes
        What was noticed about the image.
    report
        A page to read in a browser.
    """

    volume: Volume
    labels: tuple[str, ...] = ()
    volumes_ml: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    report: Path | None = None


class Engine(Protocol):
    """A way to compute: a local installation of medvit, or a server."""

    def bundles(self) -> list[BundleInfo]:
        """The bundles that can be run."""

    def run(self, bundle: str, volume: Volume, folder: Path, job: Job) -> Result:
        """Run a bundle, with files in `folder` only."""


class Job:
    """One computation in a thread of its own.

    Parameters
    ----------
    compute
        Gets the job, to tell it of progress and of how to be stopped.
    """

    def __init__(self, compute: Callable[[Job], Result]) -> None:
        self._compute = compute
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self.stage = "starting"
        self.share: float | None = None
        self._thread = threading.Thread(target=self._run, name="MedViT", daemon=True)

    def start(self) -> Job:
        """Begin."""
        self._thread.start()
        return self

    def report(self, stage: str, share: float | None = None) -> None:
        """Say what is going on, and which share of it is done, 0 to 1."""
        self.stage, self.share = stage, share

    def cancel(self) -> None:
        """End the computation; what it waits for is stopped at once."""
        with self._lock:
            self._cancelled = True
            stop = self._stop
        if stop is not None:
            stop()

    @contextmanager
    def stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """While something is under way that `stop` ends, from any thread.

        Raises
        ------
        Cancelled
            If the job was cancelled before or meanwhile, whatever else that caused.
        """
        with self._lock:
            already, self._stop = self._cancelled, stop
        try:
            if already:
                stop()
            yield
        except Exception:
            if not self._cancelled:
                raise
        finally:
            with self._lock:
                self._stop = None
        if self._cancelled:
            raise Cancelled

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, and say whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Result:
        """The result of a job that has ended.

        Raises
        ------
        MedViTError
            The cause why there is none, in one sentence.
        """
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise MedViTError("the computation has not ended yet")
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._compute(self)
        except OSError as error:
            self._error = MedViTError(f"files could not be exchanged: {error}")
        except BaseException as error:
            self._error = error
