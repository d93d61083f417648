"""Progress of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from medvit.runs.outcome import StudyOutcome

# Seconds between two lines about the windows of one study.
_PAUSE = 10.0


class RunProgress:
    """Shows each study that ends, and the stages and windows of those being processed here.

    Parameters
    ----------
    console
        Console on which it is shown.
    total
        Number of all studies.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.ended, self.failed = console, total, 0, 0
        self._lock = threading.Lock()
        self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeftColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._studies = self._bar.add_task("studies", total=total)
        self._windows: TaskID | None = None
        self._inferring, self._reading = "", ""

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str, style: str = "") -> None:
        """A line above the bars."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True, style=style or None)

    def listen(self, study: str, kind: str, text: str) -> None:
        """Show the stage that a study has reached, or a note on it."""
        if kind == "note":
            self.say(f"{study}: {text}", "yellow")
        elif text == "read" and not self.console.is_terminal and study != self._reading:
            self._reading = study
            self.say(f"{study}: reading")
        elif text == "infer":
            with self._lock:
                self._inferring, self._said = study, time.monotonic()

    def window(self, done: int, total: int) -> None:
        """Show that `done` of `total` windows of the study being inferred are finished."""
        with self._lock:
            if self.console.is_terminal:
                if self._windows is None:
                    self._windows = self._bar.add_task("windows", total=total)
                self._bar.update(self._windows, completed=done, total=total)
            elif time.monotonic() - self._said >= _PAUSE:
                self._said = time.monotonic()
                self.say(f"{self._inferring}: {done} of {total} windows")

    def show(self, outcome: StudyOutcome, event: str) -> None:
        """Show that a study has reached `event`: ``done``, ``kept``, ``failed``, ``refused`` or ``retry``."""
        if event != "retry":
            self.ended += 1
            self.failed += event in ("failed", "refused")
        description = f"studies ({self.failed} failed)" if self.failed else "studies"
        self._bar.update(self._studies, completed=self.ended, description=description)
        if event == "kept":
            return
        if outcome.status == "failed":
            text, style = outcome.error, "red"
        else:
            seconds = f"{sum(outcome.seconds.values()):.1f} s"
            text = "; ".join(filter(None, (seconds, outcome.verdict)))
            style = {"red": "red", "amber": "yellow"}.get(outcome.light, "")
        self.say(f"[{self.ended}/{self.total}] {event} {outcome.study}: {text}", style)
