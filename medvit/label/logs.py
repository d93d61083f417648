"""The server's latest log lines, for those who cannot see its terminal."""

from __future__ import annotations

import logging
from collections import deque

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KEPT: deque[str] = deque(maxlen=2000)


class _Keeper(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _KEPT.extend(self.format(record).splitlines())


def keep() -> None:
    """Log to the terminal and keep the last lines."""
    logging.basicConfig(level=logging.WARNING, format=_FORMAT, handlers=[logging.StreamHandler(), _Keeper()])


def last(lines: int) -> str:
    """The last lines, as text."""
    return "\n".join(list(_KEPT)[-lines:])
