"""`Section`: the keys of one part of a manifest, read with errors that name the file and the key at fault."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from medvit.errors import MedvitError

_MISSING: Any = object()


class Section:
    """A mapping of a manifest.

    Parameters
    ----------
    file
        The manifest.
    where
        The place of the mapping in it, such as ``"labels[3]"``; empty for the whole.
    content
        What stands there.
    known
        The keys that it may have; ``None`` for any.

    Raises
    ------
    MedvitError
        If it is no mapping, or has a key that is not known.
    """

    def __init__(self, file: Path, where: str, content: Any, known: Collection[str] | None = None) -> None:
        self.file, self.where = file, where
        if not isinstance(content, Mapping):
            raise MedvitError(f"{file}: {where or 'a manifest'} must be a mapping, not {_shown(content)}")
        self.content: Mapping[str, Any] = content
        for key in content:
            if known is not None and key not in known:
                self.refuse(str(key), f"is not a key that medvit knows; known are {', '.join(sorted(known))}")

    def refuse(self, key: str, why: str) -> NoReturn:
        """Raise what is wrong with a key."""
        raise MedvitError(f"{self.file}: {self.name_of(key)} {why}")

    def name_of(self, key: str) -> str:
        """The key with its place before it."""
        return f"{self.where}.{key}" if self.where else key

    def text(self, key: str, default: str = _MISSING) -> str:
        """A string that is not empty."""
        if (value := self._get(key, default)) is default:
            return default
        return self._text(key, value)

    def number(self, key: str, default: int | None = _MISSING) -> int | None:
        """A whole number from 0."""
        if (value := self._get(key, default)) is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not value >= 0:
            self.refuse(key, f"must be a whole number from 0, not {_shown(value)}")
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing."""
        value = self._get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, f"must be true or false, not {_shown(value)}")
        return value

    def items(self, key: str) -> list[Any]:
        """A list; empty where the key is missing."""
        value = self._get(key, [])
        if not isinstance(value, list):
            self.refuse(key, f"must be a list, not {_shown(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; a single string is a list of one."""
        value = self._get(key, [])
        return tuple(self._text(key, v) for v in ([value] if isinstance(value, str) else self.items(key)))

    def section(self, key: str, known: Collection[str] | None = None) -> Section:
        """The mapping below a key; empty where the key is missing."""
        return Section(self.file, self.name_of(key), self._get(key, {}), known)

    def sections(self, key: str, known: Collection[str] | None = None) -> Iterator[Section]:
        """The mappings of the list below a key."""
        for number, item in enumerate(self.items(key)):
            yield Section(self.file, f"{self.name_of(key)}[{number}]", item, known)

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        for key in self.content:
            yield self._text(str(key), key)

    def _get(self, key: str, default: Any) -> Any:
        value = self.content.get(key)
        if value is None:
            if default is _MISSING:
                self.refuse(key, "is missing")
            return default
        return value

    def _text(self, key: str, value: Any) -> str:
        # YAML reads 001 as a number and NO as "false", so anything but text is refused and not guessed at.
        if not isinstance(value, str):
            self.refuse(key, f"must be text, not {_shown(value)}: put it in quotes")
        if not value.strip():
            self.refuse(key, "must not be empty")
        return value.strip()


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
