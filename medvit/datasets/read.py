"""Reading manifests: medvit's own (YAML or JSON), and the ``dataset.json`` of MSD and of nnU-Net."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

import medvit
from medvit.datasets.foreign import of_decathlon, of_nnunet
from medvit.datasets.manifest import Expected, Layout, ListedCase, Manifest, Source
from medvit.datasets.section import Section
from medvit.errors import MedvitError
from medvit.studies.labels import LabelTable, load_label_table, parse_label_table

SUFFIXES = (".yaml", ".yml", ".json")
MAX_VALUE = 65_535  # of a label map, as written in 16 bits
_KEYS = {
    "name", "title", "modality", "channels", "labels", "background", "regions", "splits", "split_sizes",
    "layouts", "cases", "expected", "source", "checksums", "notes",
}  # fmt: skip
_LAYOUT_KEYS = {"images", "label", "target", "unlabelled", "case", "channels"}
_LABEL_KEYS = {"value", "name", "side", "category", "code", "color", "plausible_ml"}
_CASE_KEYS = {"id", "image", "label", "target", "split"}
_EXPECTED_KEYS = {"labelled", "unlabelled", "shape", "spacing", "absent", "empty_labels"}
_SOURCE_KEYS = {"url", "citation", "licence", "access", "splits"}
_SPLIT_CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_CATEGORIES = {
    "anatomy": {"value": "123037004", "meaning": "Anatomical Structure"},
    "lesion": {"value": "49755003", "meaning": "Morphologically Altered Structure"},
}


def installed_manifests() -> dict[str, Path]:
    """The manifests that came with medvit, by name; in a checkout, those beside the package."""
    package = Path(medvit.__file__).parent
    for folder in (package / "_data_manifests", package.parent / "data_manifests"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def read_manifest(path: str | Path) -> Manifest:
    """A manifest, by its path or by the name of one that came with medvit (``"brats2021"``).

    Three forms are understood: medvit's own in YAML or JSON (docs/datasets.md), the ``dataset.json`` of the
    Medical Segmentation Decathlon (and datalists like it), and that of nnU-Net v2. Of a folder, its
    ``dataset.json`` is read.

    Raises
    ------
    MedvitError
        Naming the file and the key, if the manifest is missing or says something that has no one meaning.
    """
    installed = installed_manifests()
    file = installed.get(str(path), Path(path).expanduser())
    if file.is_dir():
        file /= "dataset.json"
    if not file.is_file():
        raise MedvitError(f"there is no manifest {path}; medvit comes with {', '.join(installed) or 'none'}")
    content = _load(file)
    if isinstance(content, dict) and "file_ending" in content:
        return of_nnunet(file, content)
    if isinstance(content, dict) and "training" in content:
        return of_decathlon(file, content)
    return _own(Section(file, "", content, _KEYS))


class _Loader(yaml.SafeLoader):
    """YAML without the two things in it that lose what a person wrote: repeated keys, and dates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands twice in line {node.start_mark.line + 1} ff.")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _load(file: Path) -> Any:
    if file.suffix.lower() not in SUFFIXES:
        raise MedvitError(f"{file} is no manifest: its name must end in {', '.join(SUFFIXES)}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        return json.loads(text) if file.suffix.lower() == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError) as error:
        raise MedvitError(f"{file} cannot be read as a manifest: {' '.join(str(error).split())}") from None


def _own(top: Section) -> Manifest:
    channels = top.texts("channels") or ("image",)
    _check_unique(top, "channels", channels)
    labels, values = _labels(top)
    manifest = Manifest(
        path=top.file,
        name=top.text("name", top.file.stem),
        title=top.text("title", ""),
        modality=top.text("modality", "").upper(),
        channels=channels,
        labels=labels,
        values=values,
        background=tuple(_value(top, "background", value) for value in top.items("background")),
        regions=_regions(top, labels),
        layouts=tuple(_layout(s, len(channels)) for s in top.sections("layouts", _LAYOUT_KEYS)),
        expected=_expected(top.section("expected", _EXPECTED_KEYS), labels),
        source=_source(top.section("source", _SOURCE_KEYS)),
        checksums=_checksums(top.section("checksums")),
        notes=top.texts("notes"),
    )
    if both := set(values) & set(manifest.background):
        top.refuse("background", f"repeats {sorted(both)}, which labels name")
    if bool(manifest.layouts) == bool(top.items("cases")):
        top.refuse("layouts", "or cases must say where the images are, one of the two")
    return _with_splits(_with_cases(manifest, top), top)


def _labels(top: Section) -> tuple[LabelTable | None, tuple[int, ...]]:
    """The table, and the files' values of its structures: from a table's name, {value: name} or a list."""
    stated = top.content.get("labels")
    if stated is None:
        return None, ()
    if isinstance(stated, str):
        table = load_label_table(stated)
        return table, tuple(s.value for s in table)
    if isinstance(stated, dict):
        stated = [{"value": int(v) if str(v).isdigit() else v, "name": n} for v, n in stated.items()]
        stated = [entry for entry in stated if entry["value"] != 0]
    sections = [
        Section(top.file, f"labels[{number}]", entry, _LABEL_KEYS)
        for number, entry in enumerate(stated if isinstance(stated, list) else top.items("labels"))
    ]
    if not sections:
        top.refuse("labels", "names no structure; leave it out for restoration")
    values = tuple(_value(s, "value", s.content.get("value"), least=1) for s in sections)
    _check_unique(top, "labels", values)
    _check_unique(top, "labels", [s.text("name") for s in sections])
    entries = [_table_entry(s) for s in sections]
    table = parse_label_table({"name": top.file.stem, "categories": _CATEGORIES, "structures": entries})
    sides = [s.text("side", "") for s in sections]
    structures = (replace(one, side=side) for one, side in zip(table, sides, strict=True))
    return LabelTable(table.name, tuple(structures)), values


def _table_entry(label: Section) -> dict[str, Any]:
    """One label in the form of `parse_label_table`, each part of it checked."""
    entry: dict[str, Any] = {"name": label.text("name"), "category": label.text("category", "anatomy")}
    if entry["category"] not in _CATEGORIES:
        label.refuse("category", f"must be one of {', '.join(_CATEGORIES)}")
    side = label.text("side", "")
    if side and (side not in ("left", "right") or not entry["name"].startswith(f"{side} ")):
        label.refuse("side", "must be left or right, and the name must begin with it")
    if "code" in label:
        code = label.section("code", {"value", "meaning", "scheme"})
        entry["code"] = {"value": code.text("value"), "meaning": code.text("meaning")}
        entry["code"]["scheme"] = code.text("scheme", "SCT")
    for key, count in (("color", 3), ("plausible_ml", 2)):
        if key in label:
            entry[key] = _numbers(label, key, label.items(key), count)
    return entry


def _layout(stated: Section, channels: int) -> Layout:
    texts = {key: stated.text(key, "") for key in ("images", "label", "target", "unlabelled")}
    case = stated.text("case", "[^/]+")
    if not texts["images"]:
        stated.refuse("images", "is missing")
    for key, pattern in texts.items():
        if pattern and "{case}" not in pattern:
            stated.refuse(key, "must hold {case}, the place of the case's id")
        if re.sub(r"\{(case|channel)\}", "", pattern).count("{"):
            stated.refuse(key, "may hold {case} and {channel} and no other braces")
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            stated.refuse(key, "must be a path below the folder of the data set")
    try:
        re.compile(case)
    except re.error as error:
        stated.refuse("case", f"is no regular expression: {error}")
    words = stated.texts("channels")
    if words and len(words) != channels:
        stated.refuse("channels", f"names {len(words)} of {channels} channels")
    return Layout(**texts, case=case, channels=words)


def _with_cases(manifest: Manifest, top: Section) -> Manifest:
    cases: list[ListedCase] = []
    splits: dict[str, list[str]] = {}
    for stated in top.sections("cases", _CASE_KEYS):
        if isinstance(stated.content.get("image"), dict):
            named = stated.section("image", manifest.channels)
            images = tuple(named.text(channel) for channel in manifest.channels)
        else:
            images = stated.texts("image")
        if len(images) not in (1, len(manifest.channels)):
            stated.refuse("image", f"must name one file, or {len(manifest.channels)}: one for each channel")
        case = ListedCase(stated.text("id"), images, stated.text("label", ""), stated.text("target", ""))
        cases.append(case)
        if "split" in stated:
            splits.setdefault(stated.text("split"), []).append(case.id)
    _check_unique(top, "cases", [case.id for case in cases])
    return replace(manifest, cases=tuple(cases), splits={name: tuple(ids) for name, ids in splits.items()})


def _with_splits(manifest: Manifest, top: Section) -> Manifest:
    stated, sizes = top.section("splits"), top.section("split_sizes")
    given = dict(manifest.splits) | {name: stated.texts(name) for name in stated}
    splits = {}
    for name, ids in given.items():
        # "!validation" leaves out what the split of that name holds.
        out = [[f"!{one}" for one in given.get(i[1:], (i[1:],))] if i.startswith("!") else [i] for i in ids]
        splits[name] = tuple(chain(*out))
        if any(one == "!*" or one.startswith("!!") for one in splits[name]):
            stated.refuse(name, "leaves out a split that is a rest itself; list the cases of one of them")
    return replace(manifest, splits=splits, split_sizes={name: sizes.number(name) or 0 for name in sizes})


def _regions(top: Section, labels: LabelTable | None) -> dict[str, tuple[str, ...]]:
    stated = top.section("regions")
    regions = {name: stated.texts(name) for name in stated}
    for name, parts in regions.items():
        if unknown := [part for part in parts if labels is None or part not in labels.by_name]:
            stated.refuse(name, f"names {', '.join(unknown)}, which labels do not")
    return regions


def _expected(stated: Section, labels: LabelTable | None) -> Expected:
    absent = stated.texts("absent")
    if unknown := [name for name in absent if labels is None or name not in labels.by_name]:
        stated.refuse("absent", f"names {', '.join(unknown)}, which labels do not")
    return Expected(
        stated.number("labelled", None),
        stated.number("unlabelled", None),
        shape=_range(stated, "shape"),
        spacing=_range(stated, "spacing"),
        absent=absent,
        empty_labels=stated.flag("empty_labels"),
    )


def _range(stated: Section, key: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    bounds = stated.items(key)
    if len(bounds) not in (0, 2):
        stated.refuse(key, "must be a list of the least and the largest along each axis")
    ranges = [tuple(_numbers(stated, key, bound, 3)) for bound in bounds]
    return (ranges[0], ranges[1]) if ranges else None


def _source(stated: Section) -> Source:
    return Source(**{key: stated.text(key) for key in stated})


def _checksums(stated: Section) -> dict[str, str]:
    checksums = {path: stated.text(path) for path in stated}
    for path, checksum in checksums.items():
        if not _SPLIT_CHECKSUM.fullmatch(checksum):
            stated.refuse(path, "must be md5: or sha256: and the digest in lower case")
    return checksums


def _value(place: Section, key: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_VALUE:
        place.refuse(key, f"must be a whole number from {least} to {MAX_VALUE}, not {value!r}")
    return value


def _numbers(place: Section, key: str, values: Any, count: int) -> list[float]:
    numbers = values if isinstance(values, list) else []
    if len(numbers) != count or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        place.refuse(key, f"must be {count} numbers, not {values!r}")
    return numbers


def _check_unique(place: Section, key: str, values: Any) -> None:
    seen = set()
    for value in values:
        if value in seen:
            place.refuse(key, f"gives {value!r} twice")
        seen.add(value)
