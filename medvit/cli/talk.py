"""How much a run says: what other libraries log only with ``-v``, and with ``-q`` only that it went wrong."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import typer

from medvit.exits import ALL_WELL, NOTHING_TO_DO
from medvit.runs.options import SILENT


@dataclass(frozen=True)
class Talk:
    """What a person wants to be told of a run.

    Parameters
    ----------
    quiet
        Only what went wrong.
    verbose
        Log lines and warnings of MONAI, pydicom and the other libraries as well.
    as_json
        The record of the run on standard output, and no tables.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    @contextmanager
    def during(self) -> Iterator[None]:
        """Let through what is wanted, in this process and its workers; afterwards all is as before."""
        with ExitStack() as stack:
            if not self.verbose:
                stack.enter_context(_silent_libraries())
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            if self.quiet or self.as_json:
                stack.enter_context(redirect_stdout(nowhere))
            if self.quiet:
                stack.enter_context(redirect_stderr(nowhere))
            yield

    def end(self, output: Path, exit_code: int) -> int:
        """Say what is left to be said of a run that is over; its exit code."""
        record, done = output / "run.json", exit_code != NOTHING_TO_DO
        if self.as_json and done:
            typer.echo(record.read_text(encoding="utf-8").rstrip())
        if self.quiet and exit_code != ALL_WELL:
            why = f"{record} says why" if done else "no study was found"
            typer.echo(f"medvit: the run ended with exit code {exit_code}; {why}", err=True)
        return exit_code


@contextmanager
def _silent_libraries() -> Iterator[None]:
    # Workers take over the environment, and the interpreter's options for warnings.
    disabled, options = logging.root.manager.disable, list(sys.warnoptions)
    os.environ[SILENT] = "1"
    sys.warnoptions.append("ignore")
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        sys.warnoptions[:] = options
        os.environ.pop(SILENT, None)
