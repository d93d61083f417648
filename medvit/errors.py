"""Errors that the user can put right; each is one sentence that says what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Errors of the system for a disk or a quota that is full.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class MedvitError(Exception):
    """An error that the user can put right."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception calls its class with its message when it is unpickled, which fails where a constructor
        # takes something else; the process that waits for a worker would then wait forever.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[MedvitError], args: tuple[Any, ...], attributes: dict[str, Any]) -> MedvitError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class StudyError(MedvitError):
    """A study that cannot be read, or not without the risk of a wrong answer.

    Parameters
    ----------
    code
        Stable, machine-readable cause, such as ``"dicom-missing-slice"`` or ``"nifti-truncated"``.
    what
        What was found, in one clause without a full stop.
    path
        The file or folder at fault.
    do
        What the user should do, in one clause without a full stop.
    tag
        The DICOM attribute or NIfTI header field at fault, such as ``"ImagePositionPatient (0020,0032)"``.
    """

    def __init__(
        self, code: str, what: str, *, path: Path | str | None = None, do: str = "", tag: str = ""
    ) -> None:
        self.code = code
        self.what = what
        self.path = None if path is None else Path(path)
        self.do = do
        self.tag = tag
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        where = f"{self.path}: " if self.path is not None else ""
        tag = f" [{self.tag}]" if self.tag else ""
        return f"{where}{self.what}{tag}{'; ' + self.do if self.do else ''} ({self.code})"


class WeightsError(MedvitError):
    """Weights that are missing, unsafe to open, or do not fit the network."""


class MissingExtraError(MedvitError):
    """An optional dependency is not installed; the message gives the install command."""

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} needs an optional dependency: pip install 'medvit[{extra}]'")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A parenthesis that suggests the known word most similar to `word`; empty if none is similar.

    Examples
    --------
    >>> did_you_mean("hipocampus", ["hippocampus", "thalamus"])
    " (did you mean 'hippocampus'?)"
    """
    spellings = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), spellings, 1, 0.6)
    return f" (did you mean {spellings[near[0]]!r}?)" if near else ""


def root_cause(error: BaseException) -> BaseException:
    """The `MedvitError` behind an exception that MONAI may have wrapped; otherwise the first cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MedvitError):
            return cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    while error.__cause__ is not None:
        error = error.__cause__
    return error
