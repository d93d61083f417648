"""medvit's own form of a manifest, as docs/datasets.md describes it."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, field_validator

from medvit.errors import MedvitError
from medvit.studies.labels import LabelTable, load_label_table, parse_label_table
from medvit.studies.manifests.model import Expected, Layout, ListedCase, Manifest, Source
from medvit.studies.manifests.parts import (
    Count,
    Number,
    Part,
    Text,
    Texts,
    Triple,
    Value,
    check_unique,
    checked,
    refuse,
    shown,
)

_CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_CATEGORIES = {
    "anatomy": {"value": "123037004", "meaning": "Anatomical Structure"},
    "lesion": {"value": "49755003", "meaning": "Morphologically Altered Structure"},
}
Flag = Annotated[bool, Strict()]


def _images(value: Any) -> Any:
    """Paths and the channels after which they are named, from a path, a list, or ``{channel: path}``."""
    named = value if isinstance(value, dict) else {}
    paths = list(named.values()) if named else [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) and p.strip() for p in paths):
        raise refuse(f"must name a file, or one for each channel, not {shown(value)}")
    return tuple(paths), tuple(map(str, named))


Images = Annotated[tuple[tuple[str, ...], tuple[str, ...]], BeforeValidator(_images)]


def _numbers(count: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != count:
            raise refuse(f"must be {count} numbers, not {shown(value)}")
        return value

    return BeforeValidator(check)


def _bounds(value: Any) -> Any:
    if not isinstance(value, list) or len(value) != 2:
        raise refuse("must be a list of the least and the largest value along each axis")
    return value


_Triple = Annotated[Triple, _numbers(3)]
_Range = Annotated[tuple[_Triple, _Triple], BeforeValidator(_bounds)]


class _Code(Part):
    value: Text
    meaning: Text
    scheme: Text = "SCT"


class _Label(Part):
    value: Annotated[Value, Field(ge=1)]
    name: Text
    side: Literal["left", "right"] | None = None
    category: Literal["anatomy", "lesion"] = "anatomy"
    code: _Code | None = None
    color: Annotated[tuple[Value, Value, Value], _numbers(3)] | None = None
    plausible_ml: Annotated[tuple[Number, Number], _numbers(2)] | None = None

    @field_validator("side")
    @classmethod
    def _begins_the_name(cls, side: str | None, info: Any) -> str | None:
        if side and not info.data.get("name", side).startswith(f"{side} "):
            raise refuse("must be left or right, and the name must begin with it")
        return side


class _Layout(Part):
    images: Text
    label: Text = ""
    target: Text = ""
    unlabelled: Text = ""
    case: Text = "[^/]+"
    channels: Texts = ()

    @field_validator("images", "label", "target", "unlabelled")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        if "{case}" not in pattern:
            raise refuse("must contain {case}, the place of the case's id")
        if re.sub(r"\{(case|channel)\}", "", pattern).count("{"):
            raise refuse("may contain {case} and {channel} but no other braces")
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise refuse("must be a path below the folder of the data set")
        return pattern

    @field_validator("case")
    @classmethod
    def _is_expression(cls, case: str) -> str:
        try:
            re.compile(case)
        except re.error as error:
            raise refuse(f"is not a regular expression: {error}") from None
        return case


class _Case(Part):
    id: Text
    image: Images
    label: Text = ""
    target: Text = ""
    split: Text = ""


class _Expected(Part):
    labelled: Count | None = None
    unlabelled: Count | None = None
    shape: _Range | None = None
    spacing: _Range | None = None
    absent: Texts = ()
    empty_labels: Flag = False


class _Source(Part):
    url: Text = ""
    citation: Text = ""
    licence: Text = ""
    access: Text = ""
    splits: Text = ""


def _as_list(labels: Any) -> Any:
    if not isinstance(labels, dict):
        return labels
    entries = [{"value": int(v) if str(v).isdigit() else v, "name": n} for v, n in labels.items()]
    return [entry for entry in entries if entry["value"] != 0]


class _File(Part):
    name: Text = ""
    title: Text = ""
    modality: Text = ""
    channels: Texts = ("image",)
    labels: Annotated[tuple[_Label, ...], BeforeValidator(_as_list)] | None = None
    background: tuple[Value, ...] = ()
    ignore: Annotated[Value, Field(ge=1)] | None = None
    regions: dict[Text, Texts] = Field(default_factory=dict)
    splits: dict[Text, Texts] = Field(default_factory=dict)
    split_sizes: dict[Text, Count] = Field(default_factory=dict)
    layouts: tuple[_Layout, ...] = ()
    cases: tuple[_Case, ...] = ()
    expected: _Expected = _Expected()
    source: _Source = _Source()
    checksums: dict[Text, Text] = Field(default_factory=dict)
    notes: Texts = ()


def of_own(file: Path, content: Any) -> Manifest:
    """A manifest in medvit's own form.

    Raises
    ------
    MedvitError
        If a key is unknown, missing or ambiguous; the message names it.
    """
    table = None
    if isinstance(content, dict) and isinstance(content.get("labels"), str):
        table, content = load_label_table(content["labels"]), content | {"labels": None}
    stated = checked(_File, file, content)
    if bool(stated.layouts) == bool(stated.cases):
        raise MedvitError(f"{file}: either layouts or cases must say where the images are")
    channels = stated.channels or ("image",)
    check_unique(file, "channels", channels)
    labels, values = (table, tuple(s.value for s in table)) if table else _labels(file, stated.labels)
    if both := set(values) & set(stated.background):
        raise MedvitError(f"{file}: background repeats {sorted(both)}, which labels name")
    if stated.ignore in (*values, *stated.background):
        raise MedvitError(f"{file}: ignore repeats {stated.ignore}, which labels or background name")
    _check_names(file, "expected.absent", stated.expected.absent, labels)
    for name, parts in stated.regions.items():
        _check_names(file, f"regions.{name}", parts, labels)
    for path, checksum in stated.checksums.items():
        if not _CHECKSUM.fullmatch(checksum):
            why = "must be md5: or sha256: and the digest in lower case"
            raise MedvitError(f"{file}: checksums.{path} {why}")
    cases = tuple(_case(file, n, case, channels) for n, case in enumerate(stated.cases))
    check_unique(file, "cases", [case.id for case in cases])
    return Manifest(
        path=file,
        name=stated.name or file.stem,
        title=stated.title,
        modality=stated.modality.upper(),
        channels=channels,
        labels=labels,
        values=values,
        background=stated.background,
        ignore=stated.ignore,
        regions=stated.regions,
        splits=_splits(file, stated),
        split_sizes=stated.split_sizes,
        layouts=tuple(_layout(file, n, layout, channels) for n, layout in enumerate(stated.layouts)),
        cases=cases,
        expected=Expected(**dict(stated.expected)),
        source=Source(**dict(stated.source)),
        checksums=stated.checksums,
        notes=stated.notes,
    )


def _labels(file: Path, labels: tuple[_Label, ...] | None) -> tuple[LabelTable | None, tuple[int, ...]]:
    """The label table, and the value of each of its structures in the files."""
    if labels is None:
        return None, ()
    if not labels:
        raise MedvitError(f"{file}: labels names no structure; leave it out for restoration")
    check_unique(file, "labels", [label.value for label in labels])
    check_unique(file, "labels", [label.name for label in labels])
    # Structures are numbered from 1 inside; results are written in the values of the files again.
    entries = [
        label.model_dump(exclude_none=True, exclude={"value"})
        | ({"stored": label.value} if label.value != number else {})
        for number, label in enumerate(labels, start=1)
    ]
    content = {"name": file.stem, "categories": _CATEGORIES, "structures": entries}
    return parse_label_table(content), tuple(label.value for label in labels)


def _layout(file: Path, number: int, layout: _Layout, channels: tuple[str, ...]) -> Layout:
    if layout.channels and len(layout.channels) != len(channels):
        what = f"names {len(layout.channels)} of {len(channels)} channels"
        raise MedvitError(f"{file}: layouts[{number}].channels {what}")
    return Layout(**dict(layout))


def _case(file: Path, number: int, case: _Case, channels: tuple[str, ...]) -> ListedCase:
    images, named = case.image
    if named:
        if missing := sorted(set(channels) ^ set(named)):
            what = f"must name one file for each of {', '.join(channels)}; {missing[0]} is not one of both"
            raise MedvitError(f"{file}: cases[{number}].image {what}")
        images = tuple(images[named.index(channel)] for channel in channels)
    if len(images) not in (1, len(channels)):
        what = f"must name one file, or {len(channels)}: one for each channel"
        raise MedvitError(f"{file}: cases[{number}].image {what}")
    return ListedCase(case.id, images, case.label, case.target)


def _splits(file: Path, stated: _File) -> dict[str, tuple[str, ...]]:
    given: dict[str, tuple[str, ...]] = {}
    for case in stated.cases:
        if case.split:
            given[case.split] = (*given.get(case.split, ()), case.id)
    given |= stated.splits
    splits = {}
    for name, ids in given.items():
        # "!validation" leaves out what the split of that name holds.
        out = [[f"!{one}" for one in given.get(i[1:], (i[1:],))] if i.startswith("!") else [i] for i in ids]
        splits[name] = tuple(chain(*out))
        if any(one == "!*" or one.startswith("!!") for one in splits[name]):
            why = "leaves out a split that is itself a remainder; list the cases of one of them"
            raise MedvitError(f"{file}: splits.{name} {why}")
    return splits


def _check_names(file: Path, key: str, names: tuple[str, ...], labels: LabelTable | None) -> None:
    if unknown := [name for name in names if labels is None or name not in labels.by_name]:
        raise MedvitError(f"{file}: {key} names {', '.join(unknown)}, which labels do not")
