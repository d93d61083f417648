"""How a cohort gets on: a bar on a terminal, a line a study elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from medvit.runs.outcome import StudyOutcome


class CohortProgress:
    """Shows each study that ends.

    Parameters
    ----------
    console
        Where to.
    total, kept
        All studies, and those that an earlier run has done.
    """

    def __init__(self, console: Console, total: int, kept: int) -> None:
        self.console, self.total, self.ended, self.failed = console, total, kept, 0
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeftColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("studies", total=total, completed=kept)

    def __enter__(self) -> CohortProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, outcome: StudyOutcome, event: str) -> None:
        """One study has come to `event`: ``done``, ``kept``, ``failed`` or ``retry``."""
        if event != "retry":
            self.ended += 1
            self.failed += event == "failed"
        description = f"studies ({self.failed} failed)" if self.failed else "studies"
        self._bar.update(self._task, completed=self.ended, description=description)
        if not self.console.is_terminal or event in ("failed", "retry"):
            text = outcome.error if outcome.status == "failed" else f"{sum(outcome.seconds.values()):.1f} s"
            line = f"[{self.ended}/{self.total}] {event} {outcome.study}: {text}"
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
