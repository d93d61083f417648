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
    channels
        What the channels show, in their order; empty where the manifest does not say.
    """

    id: str
    paths: tuple[Path, ...]
    channels: tuple[str, ...] = ()


def read_manifest(path: Path) -> list[Entry]:
    """The studies that a manifest lists, with paths relative to its folder made whole.

    Four forms are understood:

    - JSON: a list, or ``{"studies": [...]}``, of paths or of ``{"id": ..., "image": ...}``, where the image
      is a path, a list with one for each channel, or an object ``{"t1c": path, ...}``;
    - CSV with a header: a column ``image``, or one for each channel (``image_t1c``), and optionally ``id``;
    - MSD and decathlon datalists: any of the keys ``training``, ``validation``, ``test``;
    - nnU-Net's ``dataset.json``: the images of ``imagesTr`` and ``imagesTs``.

    Raises
    ------
    MedvitError
        If the file is none of these, or gives one id to two studies.
    """
    try:
        entries = list(_from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path))
    except (ValueError, OSError, csv.Error, RecursionError) as error:  # broken JSON and encodings: ValueError
        raise MedvitError(f"{path} cannot be read as a list of studies: {error}") from None
    seen: set[str] = set()
    for entry in entries:
        if entry.id and entry.id in seen:
            raise MedvitError(f"{path} gives the id {entry.id!r} to two studies; ids must be unique")
        seen.add(entry.id)
    return entries


def _from_csv(path: Path) -> Iterator[Entry]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=";" if first.count(";") > first.count(",") else ",")
        columns = [name for name in rows.fieldnames or () if name.lower().startswith("image")]
        if not columns:
            raise MedvitError(f"{path} has no column 'image'; its first line must name the columns")
        channels = tuple(name[5:].strip(" _-") for name in columns)
        for row in rows:
            if paths := [row[column] for column in columns if row[column]]:
                named = len(paths) == len(columns) and not any(c == "" or c.isdigit() for c in channels)
                yield Entry(row.get("id") or "", _whole(path.parent, paths), channels if named else ())


def _from_json(path: Path) -> Iterator[Entry]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, list):
        listed = content
    elif not isinstance(content, dict):
        raise MedvitError(f"{path} is no list of studies")
    elif "studies" in content:
        listed = content["studies"]
    elif any(isinstance(content.get(section), list) for section in SECTIONS):
        listed = [item for section in SECTIONS for item in content.get(section) or ()]
    elif "file_ending" in content:
        yield from _from_nnunet(path.parent, content)
        return
    else:
        known = ", ".join(map(repr, ("studies", *SECTIONS, "file_ending")))
        raise MedvitError(f"{path} is no list of studies: it has none of {known}")
    if not isinstance(listed, list):
        raise MedvitError(f"{path} is no list of studies")
    channels = _channel_names(content.get("modality")) if isinstance(content, dict) else ()
    yield from (_entry(path, item, channels) for item in listed)


def _entry(path: Path, item: Any, channels: tuple[str, ...]) -> Entry:
    given = item if isinstance(item, dict) else {"image": item}
    image = given.get("image")
    if isinstance(image, dict):
        channels, image = tuple(image), list(image.values())
    paths = image if isinstance(image, list) else [image]
    if not paths or not all(isinstance(one, str) and one for one in paths):
        raise MedvitError(f"{path}: {json.dumps(item)[:200]} names no image")
    return Entry(str(given.get("id", "")), _whole(path.parent, paths), channels)


def _channel_names(stated: Any) -> tuple[str, ...]:
    # {"0": "FLAIR", "1": "T1w", ...}
    if not isinstance(stated, dict) or not all(key.isdigit() for key in stated):
        return ()
    return tuple(str(stated[key]) for key in sorted(stated, key=int))


def _from_nnunet(folder: Path, content: dict[str, Any]) -> Iterator[Entry]:
    ending = str(content["file_ending"])
    channels = _channel_names(content.get("channel_names"))
    for images in ("imagesTr", "imagesTs"):
        files = (folder / images).glob(f"*_[0-9][0-9][0-9][0-9]{ending}")
        cases: dict[str, int] = {}
        for file in sorted(files):
            case, number = file.name.removesuffix(ending).rsplit("_", 1)
            cases[case] = int(number)
        for case, last in cases.items():
            # Those that are missing in between are named too, so that they are missed.
            count = max(last + 1, len(channels))
            paths = tuple(folder / images / f"{case}_{number:04d}{ending}" for number in range(count))
            yield Entry(f"{images}_{case}", paths, channels if len(channels) == count else ())


def _whole(folder: Path, paths: list[Any]) -> tuple[Path, ...]:
    return tuple(folder / path for path in paths)
