"""Common to both engines: the bundles to choose from, a result, and a job that can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .errors import Cancelled, MedViTError
from .volume import Volume


@dataclass(frozen=True)
class BundleInfo:
    """A bundle to choose: its name, its task, its measured quality, and its versions, newest first."""

    name: str
    task: str = ""
    quality: str = ""
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How a bundle is run.

    Parameters
    ----------
    device
        ``"cpu"`` or ``"gpu"``; empty for what the engine chooses.
    overlap
        Fraction by which neighbouring windows overlap; empty for the default of the bundle.
    tta
        Whether to average over left-right mirrored images as well.
    version
        Version of the bundle at a server; empty for the one that the server uses.

    Raises
    ------
    MedViTError
        If the overlap is not a fraction from 0 to below 1.
    """

    device: str = ""
    overlap: str = ""
    tta: bool = False
    version: str = ""

    def __post_init__(self) -> None:
        try:
            share = float(self.overlap or 0)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise MedViTError(
                f"the overlap is {self.overlap!r}; give a number from 0 to below 1, such as 0.5"
            )


AS_THE_BUNDLE_HAS_IT = Settings()


@dataclass(frozen=True)
class Result:
    """The result of a bundle for a volume.

    Parameters
    ----------
    volume
        A label map, or the restored image in full precision.
    labels
        Names of the values 1, 2, ... of the label map; empty for a restored image.
    volumes_ml
        Volume of each structure.
    notes
        Remarks on the image.
    report
        Report, as a page for a browser.
    verdict
        Light of quality control and its first finding, such as ``"amber: ..."``.
    """

    volume: Volume
    labels: tuple[str, ...] = ()
    volumes_ml: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    report: Path | None = None
    verdict: str = ""


class Engine(Protocol):
    """A way to compute: a local installation of medvit, or a server."""

    def bundles(self) -> list[BundleInfo]:
        """The bundles that can be run."""

    def run(
        self, bundle: str, volume: Volume, folder: Path, job: Job, settings: Settings = AS_THE_BUNDLE_HAS_IT
    ) -> Result:
        """Run a bundle, with files in `folder` only."""


class Job:
    """One computation in a thread of its own.

    Parameters
    ----------
    compute
        Function that computes; it gets the job, to report progress and to say how it can be stopped.
    """

    def __init__(self, compute: Callable[[Job], Any]) -> None:
        self._compute = compute
        self._result: Any = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self.stage = "starting"
        self.share: float | None = None
        self.log: list[str] = []
        self._thread = threading.Thread(target=self._run, name="MedViT", daemon=True)

    def start(self) -> Job:
        """Start the computation."""
        self._thread.start()
        return self

    def report(self, stage: str, share: float | None = None) -> None:
        """Report the present stage, and the fraction of it that is done, 0 to 1."""
        self.stage, self.share = stage, share
        if share is None:
            self.log.append(stage)

    def cancel(self) -> None:
        """Cancel the computation at once, whatever it waits for."""
        with self._lock:
            self._cancelled = True
            stop = self._stop
        if stop is not None:
            stop()

    @contextmanager
    def stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have `stop` called if the job is cancelled during the block, from any thread.

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
        """Wait for the end, and return whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Any:
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
