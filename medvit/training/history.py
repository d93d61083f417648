"""Record of a training: a table and TensorBoard events, epoch by epoch, and a picture of both."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from ignite.engine import Events

from medvit.training.distributed import is_first
from medvit.training.handlers import BestWeights
from medvit.training.schedule import Schedule

TABLE, EVENTS, PICTURE = "training.csv", "events", "training.png"
_GAIN = 0.003  # minimum gain in mean Dice over the previous quarter for a training to count as still rising


class History:
    """Writes a row for each epoch: loss, learning rate, and the Dice of each structure.

    Of several processes that train together, the first one writes. A resumed training
    appends to the same table.

    Parameters
    ----------
    best
        Holder of the scores; attach it before this handler.
    schedule
        Schedule, which knows the time and the learning rate.
    folder
        Folder for ``training.csv`` and the folder ``events``.
    """

    def __init__(self, best: BestWeights, schedule: Schedule, folder: str | Path) -> None:
        self.best, self.schedule, self.folder = best, schedule, Path(folder)
        self.losses: list[float] = []
        self.writer: Any = None

    def attach(self, trainer: Any) -> None:
        """Watch a trainer."""
        if is_first():
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
            trainer.add_event_handler(Events.COMPLETED, self._close)

    def _step(self, trainer: Any) -> None:
        self.losses.append(trainer.state.output["loss"])

    def _epoch(self, trainer: Any) -> None:
        finite = [loss for loss in self.losses if loss == loss]
        self.losses = []
        row: dict[str, float] = {
            "epoch": trainer.state.epoch,
            "step": trainer.state.iteration,
            "minutes": round(self.schedule.elapsed / 60, 2),
            "learning_rate": self.schedule.optimizer.param_groups[0]["lr"],
            "loss": sum(finite) / max(len(finite), 1),
        }
        if self.best.last is not None:
            # The field of a structure that occurs in no validation case stays empty.
            names = {name: self.best.measured.get(name, "") for name in self.best.names}
            row |= {f"mean_{self.best.unit.lower()}": self.best.last, **names}  # type: ignore[dict-item]
        self._write(row)

    def _write(self, row: dict[str, float]) -> None:
        file = self.folder / TABLE
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.is_file()
        with file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / EVENTS))
        for name, value in row.items():
            if name not in ("epoch", "step") and value != "":
                self.writer.add_scalar(name.replace(" ", "_"), value, int(row["step"]))
        self.writer.flush()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_history(file: Path) -> list[dict[str, float]]:
    """The rows of a training's table, without entries that were not measured."""
    with file.open(newline="", encoding="utf-8") as stream:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]


def still_improving(rows: list[dict[str, float]]) -> bool:
    """Whether the validation Dice was rising to the end.

    This is so if the best epoch of the last quarter surpasses the best of the three before it by more than
    0.003 or, with fewer than four epochs, if the last one is the best. A training that ended with its first
    validation counts as rising, since nothing shows that it had levelled off.
    """
    scores = [row["mean_dice"] for row in rows if "mean_dice" in row]
    if len(scores) < 2:
        return bool(scores)
    last = max(len(scores) // 4, 1)
    return max(scores[-last:]) > max(scores[:-last]) + _GAIN


def keep_history(folder: Path, docs: Path) -> bool:
    """Move table and events of a training into a bundle's ``docs``, with a picture; whether it still rose."""
    docs.mkdir(parents=True, exist_ok=True)
    for part in (TABLE, EVENTS):
        shutil.move(folder / part, docs / part)
    rows = read_history(docs / TABLE)
    draw(rows, docs / PICTURE)
    return still_improving(rows)


def draw(rows: list[dict[str, float]], picture: Path) -> None:
    """A picture of loss and validation score over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    steps = [row["step"] for row in rows]
    left.plot(steps, [row["loss"] for row in rows], color="0.3")
    left.set(xlabel="step", ylabel="training loss")
    known = {"epoch", "step", "minutes", "learning_rate", "loss"}
    for name in dict.fromkeys(key for row in rows for key in row if key not in known):
        points = [(row["step"], row[name]) for row in rows if name in row]
        mean = name.startswith("mean_")
        bold = {"color": "0", "lw": 2, "label": "mean"} if mean else {"label": name, "lw": 1}
        right.plot(*zip(*points, strict=True), **bold)
    score = next((key.removeprefix("mean_") for row in rows for key in row if key.startswith("mean_")), "")
    right.set(xlabel="step", ylabel=f"validation {'Dice' if score == 'dice' else score.upper()}")
    if 0 < len(right.lines) <= 10:
        right.legend(fontsize="small", loc="lower right")
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
