"""Which values of a label map make up each structure: tables, nnU-Net's regions, names beside a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from medvit.data.channels import stem_of
from medvit.data.labels import LabelTable, load_label_table, parse_label_table
from medvit.errors import MedvitError


@dataclass(frozen=True)
class Region:
    """A structure, or several that are compared as one, such as a whole tumour."""

    name: str
    values: tuple[int, ...]

    def mask(self, label_map: np.ndarray) -> np.ndarray:
        """Where `label_map` has one of the values."""
        mask = label_map == self.values[0]
        for value in self.values[1:]:
            mask |= label_map == value
        return mask


def read_regions(table: str | Path) -> tuple[Region, ...]:
    """The structures of a label table.

    Parameters
    ----------
    table
        A table that ships with medvit (``"brain"``), or a JSON file: a label table, the ``dataset.json`` of
        nnU-Net, or names to values or lists of values, or values to names.

    Raises
    ------
    MedvitError
        If there is no such table, or it cannot be understood.
    """
    path = Path(str(table))
    if not path.is_file():
        if not (files("medvit.data") / "label_tables" / f"{table}.json").is_file():
            raise MedvitError(f"{table}: is neither a file nor a label table that ships with medvit")
        return _of_table(load_label_table(str(table)))
    try:
        content = json.loads(path.read_text("utf-8"))
        if "structures" in content:
            return _of_table(parse_label_table(content))
        return _parse(content.get("labels", content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedvitError(f"{path}: is not a readable label table ({error}); see docs/evaluate.md") from error


def regions_beside(path: Path) -> tuple[Region, ...]:
    """The names that stand beside a label map that medvit wrote; empty where there are none."""
    beside = path.with_name(f"{stem_of(path)}.json")
    return read_regions(beside) if beside.is_file() else ()


def regions_of_values(values: set[int]) -> tuple[Region, ...]:
    """A region for each value, where nothing is known of names."""
    return tuple(Region(f"label {value}", (value,)) for value in sorted(values - {0}))


def _of_table(table: LabelTable) -> tuple[Region, ...]:
    return tuple(Region(s.name, (s.value,)) for s in table)


def _parse(labels: dict[str, Any]) -> tuple[Region, ...]:
    if labels and all(key.isdigit() for key in labels):
        labels = {str(name): int(value) for value, name in labels.items()}
    regions = []
    for name, value in labels.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or not all(type(v) is int and 0 <= v <= 65535 for v in values):
            raise ValueError(f"{name!r} has {value!r} where values from 0 to 65535 belong")
        if values != (0,):
            regions.append(Region(name, values))
    if not regions:
        raise ValueError("it names no structure")
    return tuple(regions)
