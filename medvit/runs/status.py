"""The status of a run, read from its journal while it runs or after. Imports neither torch nor monai."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medvit.errors import MedvitError
from medvit.exits import INTERRUPTED
from medvit.runs.journal import JOURNAL, living_runs, read_events


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Parameters
    ----------
    state
        ``"interrupted"`` if the last run ended early.
    total, done
        Number of studies.
    running
        Seconds since the start of each study that is being processed.
    stages
        Stage that each of these studies has reached.
    failed
        Cause for each study that failed.
    per_hour
        Studies that the last run finished per hour; `None` if it has not finished any.
    seconds_left
        Time until the end at this rate; `None` when it is not known or nothing runs.
    """

    state: Literal["running", "ended", "interrupted"]
    total: int
    done: int
    running: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    per_hour: float | None = None
    seconds_left: float | None = None

    @property
    def waiting(self) -> int:
        """Studies that have not been begun yet."""
        return max(0, self.total - self.done - len(self.running) - len(self.failed))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"waiting": self.waiting}

    def __str__(self) -> str:
        lines = [
            f"{self.state}: {self.done} of {self.total} done, {len(self.running)} running, "
            f"{len(self.failed)} failed, {self.waiting} waiting"
        ]
        if self.per_hour is not None:
            left = f", {_duration(self.seconds_left)} left" if self.seconds_left is not None else ""
            lines.append(f"{self.per_hour:.1f} studies an hour{left}")
        for study, seconds in self.running.items():
            stage = f" ({self.stages[study]})" if study in self.stages else ""
            lines.append(f"  running {study} for {_duration(seconds)}{stage}")
        lines += [f"  FAILED {study}: {why}" for study, why in self.failed.items()]
        return "\n".join(lines)


def read_status(output_dir: Path | str) -> RunStatus:
    """Read the journal of an output folder.

    Raises
    ------
    MedvitError
        If nothing was ever run there.
    """
    output = Path(output_dir)
    events = read_events(output)
    begun = [event for event in events if event["event"] == "begin"]
    if not begun:
        raise MedvitError(f"{output}: has no journal of a run ({JOURNAL})")
    alive = living_runs(output, events)
    now = time.time()
    running, done, failed = _replay(events, min((e["time"] for e in alive), default=now))
    last = begun[-1]
    since = next((e["time"] for e in reversed(events) if e["event"] == "planned"), last["time"])
    over = [
        e for e in events
        if e["event"] == "end" and e["file"] == last["file"] and e.get("exit_code") != INTERRUPTED
    ]  # fmt: skip
    ended = [e["time"] for e in events if e["event"] in ("done", "failed") and e["time"] >= since]
    until = now if alive else max(ended, default=now)
    per_second = len(ended) / max(until - since, 1e-3) if ended else None
    left = last["total"] - len(done) - len(failed)
    return RunStatus(
        "running" if alive else "ended" if over else "interrupted",
        last["total"],
        len(done),
        {study: round(now - begun_at, 1) for study, begun_at in running.items()},
        failed,
        {e["study"]: e["stage"] for e in events if e["event"] == "stage" and e["study"] in running},
        round(3600 * per_second, 1) if per_second else None,
        round(left / per_second, 1) if per_second and alive else None,
    )


def _replay(
    events: list[dict[str, Any]], alive_since: float
) -> tuple[dict[str, float], set[str], dict[str, str]]:
    """Start times of running studies, finished studies, and causes of failures, after all `events`."""
    running: dict[str, float] = {}
    done: set[str] = set()
    failed: dict[str, str] = {}
    for event in events:
        study = event.get("study", "")
        if event["event"] == "planned":  # all others are processed again
            done = set(event["kept"])
            failed.clear()
        elif event["event"] == "started":
            if event["time"] >= alive_since:
                running[study] = event["time"]
        elif study and event["event"] not in ("stage", "note"):
            running.pop(study, None)
            failed.pop(study, None)
            if event["event"] in ("done", "kept"):
                done.add(study)
            elif event["event"] in ("failed", "refused"):
                failed[study] = event["error"]
    return running, done, failed


def _duration(seconds: float | None) -> str:
    minutes, seconds = divmod(int(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
