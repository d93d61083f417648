"""Requests that cannot be answered, each with its HTTP status, and the choices made in a request."""

from __future__ import annotations

from typing import Any

from medvit.errors import MedvitError


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


def first_of(value: Any) -> str:
    """The option that was chosen; viewers send back the whole list of choices where none was."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value or "")
