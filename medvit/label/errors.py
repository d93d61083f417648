"""Requests that cannot be answered, with their HTTP status, and the choices made in a request."""

from __future__ import annotations

from typing import Any

from medvit.errors import MedvitError

# Bytes; file systems take 255, and a suffix or a mark may be added.
_LONGEST_NAME = 200


class RequestError(MedvitError):
    """A request that cannot be fulfilled.

    Parameters
    ----------
    what
        One sentence for the person at the viewer.
    status
        HTTP status of the answer.
    """

    def __init__(self, what: str, status: int = 422) -> None:
        super().__init__(what)
        self.status = status


def not_found(kind: str, name: str, known: list[str]) -> RequestError:
    """The error for an unknown `name`, listing the names of that `kind` that exist."""
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return RequestError(f"there is no {kind} {name!r}; known are: {listed or 'none'}", 404)


def file_name(name: str) -> str:
    """A name that a client chose, if it can be that of a file.

    Raises
    ------
    RequestError
        If it could lead elsewhere, or is longer than file systems allow.
    """
    if not name or name.startswith(".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise RequestError(f"{name[:40]!r} is not a name for a file; leave out slashes and leading dots")
    if len(name.encode()) > _LONGEST_NAME:
        raise RequestError(f"{name[:40]!r}... is too long for the name of a file; shorten it")
    return name


def first_of(value: Any) -> str:
    """The option that was chosen; viewers send back the whole list of choices if none was."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value or "")
