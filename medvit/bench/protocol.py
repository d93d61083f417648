"""`Protocol`: the meaning of the label values of a manual segmentation in a label table of medvit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from medvit.bench.studies import unsided_region
from medvit.errors import MedvitError, did_you_mean
from medvit.evaluation.structures import ScoredStructure
from medvit.studies.labels import LabelTable

_FOLDER = files("medvit.bench") / "protocols"


@dataclass(frozen=True)
class Protocol:
    """The numbering of structures in a data set.

    Parameters
    ----------
    title
        Title for tables and messages.
    structures
        Mapping from a name in a label table to the values that make it up. A name without "left" or "right"
        is both sides together.
    background
        Values that have no counterpart in the label table.
    """

    title: str
    structures: Mapping[str, tuple[int, ...]]
    background: frozenset[int]

    def unknown(self, values: Iterable[int]) -> list[int]:
        """The values that the protocol does not explain."""
        known = {0, *self.background, *(v for of in self.structures.values() for v in of)}
        return sorted(set(values) - known)

    def drawn(self) -> tuple[ScoredStructure, ...]:
        """The structures by their values in the data set."""
        return tuple(ScoredStructure(name, values) for name, values in self.structures.items())


def found_region(table: LabelTable, name: str) -> ScoredStructure:
    """A structure by its values in `table`; both sides together if `name` has no side."""
    if name in table.by_name:
        return ScoredStructure(name, (table.by_name[name].value,))
    return unsided_region(table, name)


def installed_protocols() -> tuple[str, ...]:
    """Names of the protocols that come with medvit."""
    return tuple(sorted(entry.name.removesuffix(".json") for entry in _FOLDER.iterdir()))


def read_protocol(name: str | Path, table: LabelTable) -> Protocol:
    """A protocol by its name, or from a JSON file of the same form.

    Parameters
    ----------
    name
        ``"neuromorphometrics"``, ``"freesurfer"``, or the path of a JSON file with ``structures`` (name in
        the label table to a value or a list of values) and, if need be, ``title`` and ``background``.
    table
        Table that must contain the names of the structures.

    Raises
    ------
    MedvitError
        If the protocol is unknown, or it names a structure that `table` does not have, or a value twice.
    """
    known = installed_protocols()
    path = Path(name)
    if not path.is_file() and str(name) not in known:
        raise MedvitError(
            f"there is no protocol {str(name)!r}{did_you_mean(str(name), known)}; "
            f"give one of {', '.join(known)}, or a JSON file"
        )
    source = path if path.is_file() else _FOLDER / f"{name}.json"
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        structures = {key: _values(of) for key, of in content["structures"].items()}
        background = _values(content.get("background", []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedvitError(f"{name}: is not a readable protocol ({error}); see docs/bench.md") from None
    every = [value for of in (*structures.values(), background) for value in of]
    if twice := sorted({value for value in every if every.count(value) > 1}):
        raise MedvitError(f"{name}: gives the values {twice[:10]} more than one meaning")
    names = {*table.by_name, *(s.unsided_name for s in table)}
    if strange := [key for key in structures if key not in names]:
        raise MedvitError(
            f"{name}: {strange[0]!r} is not a structure of the label table {table.name!r}"
            f"{did_you_mean(strange[0], names)}"
        )
    return Protocol(str(content.get("title", path.stem)), structures, frozenset(background))


def recognise(values: Iterable[int], table: LabelTable) -> Protocol:
    """The one protocol of those that come with medvit that explains all of `values`.

    Raises
    ------
    MedvitError
        If none or several do.
    """
    present = set(values)
    protocols = {name: read_protocol(name, table) for name in installed_protocols()}
    fitting = [name for name, protocol in protocols.items() if not protocol.unknown(present)]
    if len(fitting) == 1:
        return protocols[fitting[0]]
    if fitting:
        raise MedvitError(f"the label maps fit {' and '.join(fitting)}; choose one with --protocol")
    unexplained = "; ".join(f"{name}: {p.unknown(present)[:5]}" for name, p in protocols.items())
    raise MedvitError(
        f"the label maps hold values that no protocol explains ({unexplained}); "
        "give a JSON file with --protocol, as docs/bench.md says"
    )


def _values(stated: int | list[int]) -> tuple[int, ...]:
    values = tuple(stated) if isinstance(stated, list) else (stated,)
    if not all(type(v) is int and 0 < v <= 65535 for v in values):
        raise ValueError(f"{stated!r} where whole numbers from 1 to 65535 are expected")
    return values
