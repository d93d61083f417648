"""Lists of studies on disk: our own JSON and CSV, nnU-Net's ``dataset.json``, MSD and decathlon datalists."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError

SECTIONS = ("training", "validation", "test", "testing")


@dataclass(frozen=True)
class Entry:
    """One study of a manifest.

    Parameters
    ----------
    id
        As the manifest gives it; empty where it does not.
    paths
        One for each channel, or one file that holds them all.
    """

    id: str
    paths: tuple[Path, ...]


def read_manifest(path: Path) -> list[Entry]:
    """The studies that a manifest lists, with paths relative to its folder made whole.

    Four forms are understood:

    - JSON: a list, or ``{"studies": [...]}``, of paths or of ``{"id": ..., "image": path or [paths]}``;
    - CSV with a header: a column ``image``, or several that begin with ``image``, and optionally ``id``;
    - MSD and decathlon datalists: any of the keys ``training``, ``validation``, ``test``;
    - nnU-Net's ``dataset.json``: the images of ``imagesTr`` and ``imagesTs``.

    Raises
    ------
    MedvitError
        If the file is none of these, or an id stands in it twice.
    """
    try:
        entries = list(_from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path))
    except (ValueError, OSError) as error:  # ValueError covers broken JSON and broken encodings
        raise MedvitError(f"{path} cannot be read as a list of studies: {error}") from None
    seen: set[str] = set()
    for entry in entries:
        if entry.id and entry.id in seen:
            raise MedvitError(f"{path} gives the id {entry.id!r} to two studies; ids must be unique")
        seen.add(entry.id)
    return entries


def _from_csv(path: Path) -> Iterator[Entry]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        sample = file.read(4096)
        file.seek(0)
        rows = csv.DictReader(file, delimiter=";" if sample.count(";") > sample.count(",") else ",")
        columns = sorted(name for name in rows.fieldnames or () if name.lower().startswith("image"))
        if not columns:
            raise MedvitError(f"{path} has no column 'image'; its first line must name the columns")
        for row in rows:
            paths = [row[column] for column in columns if row[column]]
            if paths:
                yield Entry(row.get("id") or "", _whole(path.parent, paths))


def _from_json(path: Path) -> Iterator[Entry]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, list):
        listed = content
    elif not isinstance(content, dict):
        raise MedvitError(f"{path} is no list of studies")
    elif "studies" in content:
        listed = content["studies"]
    elif any(isinstance(content.get(section), list) for section in SECTIONS):
        listed = [item for section in SECTIONS for item in content.get(section) or ()]
    elif "file_ending" in content or "channel_names" in content:
        yield from _from_nnunet(path.parent, content)
        return
    else:
        known = ", ".join(map(repr, ("studies", *SECTIONS, "file_ending")))
        raise MedvitError(f"{path} is no list of studies: it has none of {known}")
    if not isinstance(listed, list):
        raise MedvitError(f"{path}: 'studies' must be a list")
    yield from (_entry(path, item) for item in listed)


def _entry(path: Path, item: Any) -> Entry:
    image = item.get("image") if isinstance(item, dict) else item
    paths = image if isinstance(image, list) else [image]
    if not paths or not all(isinstance(p, str) and p for p in paths):
        raise MedvitError(f"{path}: {json.dumps(item)[:200]} names no image")
    name = str(item.get("id", "")) if isinstance(item, dict) else ""
    return Entry(name, _whole(path.parent, paths))


def _from_nnunet(folder: Path, content: dict[str, Any]) -> Iterator[Entry]:
    ending = str(content.get("file_ending", ".nii.gz"))
    cases: dict[tuple[str, str], list[Path]] = {}
    for images in ("imagesTr", "imagesTs"):
        for path in sorted((folder / images).glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
            case = path.name[: -len(ending) - 5]
            cases.setdefault((images, case), []).append(path)
    for paths in cases.values():
        yield Entry("", tuple(paths))


def _whole(folder: Path, paths: list[Any]) -> tuple[Path, ...]:
    return tuple(folder / path for path in paths)
