"""Which values of a label map make up each structure: tables, nnU-Net's regions, names beside a file."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import MedvitError
from medvit.studies.channels import stem_of
from medvit.studies.labels import Code, LabelTable, load_label_table, parse_label_table
from medvit.studies.manifests import read_manifest

if TYPE_CHECKING:
    from medvit.studies.dicom.seg import Segment


IGNORE = "ignore"  # nnU-Net's name for the value of unlabelled voxels


@dataclass(frozen=True)
class ScoredStructure:
    """A structure, or several that are compared together, such as a whole tumour.

    Parameters
    ----------
    name
        Name as in tables and files.
    values
        Values in the label map.
    code
        Coding scheme, code and side, where a public scheme has one for it; empty otherwise.
    """

    name: str
    values: tuple[int, ...]
    code: str = ""

    def mask(self, label_map: np.ndarray) -> np.ndarray:
        """Where `label_map` has one of the values."""
        mask = label_map == self.values[0]
        for value in self.values[1:]:
            mask |= label_map == value
        return mask


def read_regions(table: str | Path) -> tuple[ScoredStructure, ...]:
    """The structures of a label table.

    Parameters
    ----------
    table
        A table that ships with medvit (``"brain"``); a manifest, such as nnU-Net's ``dataset.json``; or a
        JSON file: a label table, or names to values or lists of values, or values to names. A value that
        nnU-Net calls ``ignore`` becomes the region `IGNORE`.

    Raises
    ------
    MedvitError
        If the table does not exist, or cannot be understood.
    """
    path = Path(str(table))
    if not path.is_file():
        if not (files("medvit.studies") / "label_tables" / f"{table}.json").is_file():
            raise MedvitError(f"{table}: is neither a file nor a label table that ships with medvit")
        return regions_of_table(load_label_table(str(table)))
    if path.suffix.lower() in (".yaml", ".yml"):
        return _regions_of_manifest(path)
    try:
        content = json.loads(path.read_text("utf-8"))
        if "layouts" in content or "cases" in content:
            return _regions_of_manifest(path)
        if "structures" in content:
            return regions_of_table(parse_label_table(content))
        return _parse(content.get("labels", content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedvitError(f"{path}: is not a readable label table ({error}); see docs/evaluate.md") from error


def _regions_of_manifest(path: Path) -> tuple[ScoredStructure, ...]:
    """The structures of a data set in the values of its files, and what it scores together."""
    manifest = read_manifest(path)
    if manifest.labels is None:
        raise MedvitError(f"{path}: does not name any structure")
    found = [
        replace(r, values=(s.file_value,))
        for r, s in zip(regions_of_table(manifest.labels), manifest.labels, strict=True)
    ]
    values = {region.name: region.values[0] for region in found}
    found += [
        ScoredStructure(name, tuple(values[part] for part in parts))
        for name, parts in manifest.regions.items()
    ]
    return (*found, *([] if manifest.ignore is None else [ScoredStructure(IGNORE, (manifest.ignore,))]))


def regions_beside(path: Path) -> tuple[ScoredStructure, ...]:
    """The names beside a label map that medvit wrote; empty if there are none."""
    beside = path.with_name(f"{stem_of(path)}.json")
    return read_regions(beside) if beside.is_file() else ()


def regions_of_values(values: set[int]) -> tuple[ScoredStructure, ...]:
    """A region for each value, where names are unknown."""
    return tuple(ScoredStructure(f"label {value}", (value,)) for value in sorted(values - {0}))


def regions_of_segments(segments: Sequence[Segment]) -> tuple[ScoredStructure, ...]:
    """A region for each name; segments of one name are one structure."""
    values: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for segment in segments:
        values[segment.name] += (segment.number,)
    codes = {segment.name: _code(segment.code, segment.side) for segment in segments}
    return tuple(ScoredStructure(name, numbers, codes[name]) for name, numbers in values.items())


def matched(
    wanted: Sequence[ScoredStructure], segments: Sequence[ScoredStructure]
) -> tuple[ScoredStructure | None, ...]:
    """For each wanted region that of the segments: the one of its name, or else the only one of its code.

    Many programs give all segments one code, "Tissue": a code that stands twice on a side tells nothing.
    """
    names = {_plain(segment.name): segment for segment in segments}
    free = [s for s in segments if _plain(s.name) not in {_plain(region.name) for region in wanted}]
    times = Counter(region.code for region in wanted), Counter(segment.code for segment in segments)
    codes = {s.code: s for s in free if s.code and all(count[s.code] == 1 for count in times)}
    return tuple(names.get(_plain(region.name)) or codes.get(region.code) for region in wanted)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _code(code: Code, side: str) -> str:
    # Private codes are made from names, and contain no more information.
    return "" if code.scheme.startswith("99") else f"{code.scheme} {code.value} {side}"


def regions_of_table(table: LabelTable) -> tuple[ScoredStructure, ...]:
    """A region for each structure of a label table, in the values of files."""
    return tuple(ScoredStructure(s.name, (s.file_value,), _code(s.code, s.side)) for s in table)


def _parse(labels: dict[str, Any]) -> tuple[ScoredStructure, ...]:
    if labels and all(key.isdigit() for key in labels):
        labels = {str(name): int(value) for value, name in labels.items()}
    regions = []
    for name, value in labels.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or not all(type(v) is int and 0 <= v <= 65535 for v in values):
            raise ValueError(f"{name!r} has {value!r} where values from 0 to 65535 are expected")
        if values != (0,):
            regions.append(ScoredStructure(name, values))
    if not regions:
        raise ValueError("it does not name any structure")
    return tuple(regions)
