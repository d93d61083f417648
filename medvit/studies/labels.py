"""The structures of label maps: value, name, colour and SNOMED CT code of each."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np

from medvit.errors import MedvitError, did_you_mean


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.16): value in a coding scheme, and its meaning in words."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True)
class Structure:
    """One label of a label map.

    Parameters
    ----------
    value
        Voxel value, 1 or more.
    name
        Name as in a report, side first ("left hippocampus").
    color
        Red, green and blue, 0 to 255.
    code
        The structure in SNOMED CT, without its side.
    category
        Its category in SNOMED CT ("Anatomical Structure", "Body Substance").
    side
        ``"left"``, ``"right"``, or ``""`` if it is not paired.
    plausible_ml
        Volumes outside these bounds are flagged in reports; ``None`` where there is no published range.
    stored
        Value in files, if the training data of a network use another one than `value`.
    group
        Name of a set of structures that a study shows together or not at all, such as structures of a known
        and of an unknown side; empty for those that every study should show.
    in_parts
        Whether a healthy one may have several separate parts, like a ventricle with narrow horns.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    code: Code
    category: Code
    side: str = ""
    plausible_ml: tuple[float, float] | None = None
    stored: int | None = None
    group: str = ""
    in_parts: bool = False

    @property
    def file_value(self) -> int:
        """The value in the label maps that are written."""
        return self.value if self.stored is None else self.stored

    @property
    def unsided_name(self) -> str:
        """The name without its side, which a pair shares."""
        return self.name.removeprefix(f"{self.side} ") if self.side else self.name


@dataclass(frozen=True)
class LabelTable:
    """The structures of a label map, in order of value.

    Parameters
    ----------
    name
        Name of the table ("brain").
    structures
        Values run from 1 without a gap, since viewers bind names to values by position.
    source
        Publication of the plausible volumes.
    """

    name: str
    structures: tuple[Structure, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if [s.value for s in self.structures] != list(range(1, len(self.structures) + 1)):
            raise MedvitError(f"label table {self.name!r}: values must run from 1 without a gap")
        if len({s.file_value for s in self.structures}) < len(self.structures):
            raise MedvitError(f"label table {self.name!r}: two structures are stored under one value")

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    def __len__(self) -> int:
        return len(self.structures)

    @cached_property
    def by_name(self) -> dict[str, Structure]:
        """Structures by name."""
        return {s.name: s for s in self.structures}

    @property
    def file_names(self) -> dict[int, str]:
        """Name of each value in files."""
        return {s.file_value: s.name for s in self.structures}

    def to_files(self, label_map: np.ndarray) -> np.ndarray:
        """A label map with this table's values converted to those of files; itself if they are equal."""
        if all(s.stored is None for s in self.structures):
            return label_map
        values = np.array([0, *(s.file_value for s in self.structures)])
        return values.astype(np.uint8 if values.max() < 256 else np.uint16)[label_map]

    @property
    def channel_def(self) -> dict[str, str]:
        """Channel to name, background included, as a bundle's metadata states it."""
        return {"0": "background"} | {str(s.value): s.name for s in self.structures}

    def shown(self, found: Collection[int]) -> tuple[Structure, ...]:
        """The structures that a study with the values `found` should have.

        A group of which nothing was found is left out if another group was found.
        """
        groups = {s.group for s in self.structures if s.group and s.value in found}
        return tuple(s for s in self.structures if not s.group or not groups or s.group in groups)

    def pairs(self) -> Iterator[tuple[Structure, Structure]]:
        """Left and right of every paired structure."""
        for left in self.structures:
            right = self.by_name.get(f"right {left.unsided_name}")
            if left.side == "left" and right is not None:
                yield left, right

    def chosen(self, names: Sequence[str]) -> tuple[Structure, ...]:
        """The structures of these names, in order of value; a name without its side stands for both sides.

        Raises
        ------
        MedvitError
            If there is no structure of that name.
        """
        taken: set[Structure] = set()
        for name in (n.strip().lower().replace("_", " ") for n in names):
            found = {s for s in self if name in (s.name.lower(), s.unsided_name.lower())}
            if not found:
                known = list(dict.fromkeys(n for s in self for n in (s.unsided_name, s.name)))
                hint = did_you_mean(name, known) or f"; there are: {', '.join(dict.fromkeys(known))}"
                raise MedvitError(f"label table {self.name!r} has no structure {name!r}{hint}")
            taken |= found
        return tuple(s for s in self if s in taken)

    def as_dict(self) -> dict[str, Any]:
        """The table in its JSON form, as `parse_label_table` takes it."""
        categories = {s.category.meaning: s.category for s in self.structures}
        return {
            "name": self.name,
            "source": self.source,
            "categories": {key: asdict(category) for key, category in categories.items()},
            "structures": [
                {
                    "name": s.name,
                    "side": s.side,
                    "category": s.category.meaning,
                    "code": asdict(s.code),
                    "color": list(s.color),
                    "plausible_ml": list(s.plausible_ml) if s.plausible_ml else None,
                    **({"stored": s.stored} if s.stored is not None else {}),
                    **({"group": s.group} if s.group else {}),
                    **({"in_parts": True} if s.in_parts else {}),
                }
                for s in self.structures
            ],
        }


def renumbered(label_map: np.ndarray, table: LabelTable) -> tuple[np.ndarray, LabelTable]:
    """A label map and its table without structures that such a study cannot show.

    Parameters
    ----------
    label_map
        Integers from 0 to the number of structures.
    table
        The structures. Those that `LabelTable.shown` leaves out are dropped, and the others renumbered
        without a gap, as DICOM requires of segments.
    """
    if not any(s.group for s in table):
        return label_map, table
    shown = table.shown(np.unique(label_map).tolist())
    numbers = np.zeros(len(table) + 1, label_map.dtype)
    numbers[[s.value for s in shown]] = range(1, len(shown) + 1)
    kept = (replace(s, value=n, stored=s.file_value) for n, s in enumerate(shown, 1))
    return numbers[label_map], replace(table, structures=tuple(kept))


def keep_values(label_map: np.ndarray, values: Collection[int], largest: int) -> np.ndarray:
    """A label map with values up to `largest`, in which all values except `values` become background."""
    table = np.zeros(largest + 1, label_map.dtype)
    table[list(values)] = list(values)
    return table[label_map]


_CATEGORIES = {"anatomy": {"value": "123037004", "meaning": "Anatomical Structure"}}


def load_label_table(name: str | dict[str, Any]) -> LabelTable:
    """The label table that ships under `name` ("brain"), or one that is given in its JSON form.

    Raises
    ------
    MedvitError
        If the table is unknown.
    """
    if not isinstance(name, str):
        return parse_label_table(name)
    file = files("medvit.studies") / "label_tables" / f"{name}.json"
    if not file.is_file():
        known = [f.name.removesuffix(".json") for f in (files("medvit.studies") / "label_tables").iterdir()]
        raise MedvitError(f"there is no label table named {name!r}{did_you_mean(name, known)}")
    return parse_label_table(json.loads(file.read_text()))


def parse_label_table(content: dict[str, Any]) -> LabelTable:
    """A label table from its JSON form: paired entries appear once and become a left and a right structure.

    An entry that is not paired may state its ``side``, which its name then includes. Only ``name`` is
    required. Without a colour, an entry gets a colour of its own; without a code, a private one in the scheme
    ``99MEDVIT``, named as DICOM PS3.16 section 8 requires.
    """
    structures: list[Structure] = []
    for number, entry in enumerate(content["structures"]):
        category = Code(**content.get("categories", _CATEGORIES)[entry.get("category", "anatomy")])
        plausible = entry.get("plausible_ml")
        for side in ("left", "right") if entry.get("paired") else ("",):
            structures.append(
                Structure(
                    value=len(structures) + 1,
                    name=f"{side} {entry['name']}".strip(),
                    color=tuple(entry.get("color") or spread_color(number)),
                    code=Code(**entry["code"]) if "code" in entry else _private_code(entry["name"]),
                    category=category,
                    side=side or entry.get("side", ""),
                    plausible_ml=tuple(plausible) if plausible else None,
                    stored=entry.get("stored"),
                    group=entry.get("group", ""),
                    in_parts=entry.get("in_parts", False),
                )
            )
    return LabelTable(content["name"], tuple(structures), content.get("source", ""))


def _private_code(name: str) -> Code:
    return Code(re.sub(r"\W+", "_", name).upper()[:16], name, "99MEDVIT")


def spread_color(number: int) -> tuple[int, int, int]:
    """Hues at steps of the golden angle, of which any number stay distinct."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803 % 1, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
