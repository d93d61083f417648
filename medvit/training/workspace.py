"""The folder in which a bundle grows while it is trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvit.bundles import Bundle
from medvit.bundles.write import refuse_existing
from medvit.errors import MedvitError


class Workspace:
    """The work folder beside a future bundle: plan, checkpoints, prepared cases, and the unfinished bundle.

    Parameters
    ----------
    output
        Folder of the finished bundle.
    scratch
        Folder for prepared cases; by default the work folder itself.
    """

    def __init__(self, output: Path, scratch: Path | None = None) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.training")
        # Has the final name, because configurations refer to their bundle by name.
        self.bundle = Bundle(self.folder / output.name)
        self.checkpoints = self.folder / "checkpoints"
        self.scratch = scratch or self.folder / "samples"

    @property
    def plan_file(self) -> Path:
        """Where the plan is kept."""
        return self.folder / "plan.json"

    def checkpoint(self) -> str:
        """The newest checkpoint; empty where there is none."""
        found = sorted(self.checkpoints.glob("*.pt"), key=lambda file: file.stat().st_mtime)
        return str(found[-1]) if found else ""

    def open(self, resume: bool) -> None:
        """Refuse to overwrite a bundle or an interrupted training.

        Raises
        ------
        MedvitError
            If the bundle exists already, if there is nothing to resume, or if there is something to resume
            but that was not requested.
        """
        refuse_existing(self.output)
        if resume and not self.plan_file.is_file():
            raise MedvitError(f"{self.folder} holds no training to resume; start one without --resume")
        if not resume and self.folder.exists():
            raise MedvitError(
                f"{self.folder} holds an interrupted training: continue it with --resume or remove it"
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """When the training in the block ends early, keep what can be resumed, or remove the work folder.

        Raises
        ------
        MedvitError
            If the training is interrupted.
        """
        try:
            yield
        except KeyboardInterrupt:
            raise MedvitError(
                "interrupted; the same command with --resume continues after the last epoch"
            ) from None
        except Exception:
            if not self.checkpoint():
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def close(self) -> Bundle:
        """Put the finished bundle in its place and remove the rest."""
        if self.output.is_dir():
            self.output.rmdir()
        self.bundle.path.rename(self.output)
        shutil.rmtree(self.folder)
        return Bundle(self.output.resolve())


def refuse_other_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue what was begun with other settings.

    Raises
    ------
    MedvitError
        With the names of the settings that differ.
    """
    if other := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        raise MedvitError(
            f"{folder} was begun with other settings ({', '.join(other)}): resume it with the same"
        )
