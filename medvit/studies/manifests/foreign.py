"""Manifests in foreign forms: nnU-Net v2, the Medical Segmentation Decathlon, and lists as JSON or CSV."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from medvit.errors import MedvitError
from medvit.studies.channels import canonical, stem_of
from medvit.studies.files import safe_name
from medvit.studies.labels import LabelTable, parse_label_table
from medvit.studies.manifests.model import Expected, Layout, ListedCase, Manifest, Source
from medvit.studies.manifests.own import Images
from medvit.studies.manifests.parts import Count, Lenient, Text, checked, refuse

# Contrasts of MR; the last are the decathlon's words.
_MR = {"t1n", "t1c", "t2w", "t2f", "pd", "dwi", "adc", "swi", "mr", "mri", "lge", "cinemri"}
SECTIONS = ("training", "validation", "test", "testing")


def _numbered(stated: Any) -> Any:
    """The names of ``{"0": "FLAIR", "1": "T1w", ...}`` in order; a single name is a list of one."""
    if isinstance(stated, str):
        return (stated,)
    if not isinstance(stated, dict) or {*stated} != {str(number) for number in range(len(stated))}:
        raise refuse("must be numbered from 0 without a gap")
    return tuple(stated[str(number)] for number in range(len(stated)))


_Numbered = Annotated[tuple[Text, ...], BeforeValidator(_numbered)]


class _Described(Lenient):
    """What the foreign forms state under the same keys."""

    name: Text = ""
    description: str = ""
    reference: str = ""
    licence: str = ""
    license: str = ""
    numTraining: Count | None = None
    numTest: Count | None = None

    def manifest(self, file: Path, channels: tuple[str, ...], **rest: Any) -> Manifest:
        """The manifest; `rest` holds what each form states in its own way."""
        words = {canonical(channel) for channel in channels}
        return Manifest(
            path=file,
            name=self.name.strip() or file.absolute().parent.name,
            title=self.description.strip(),
            modality="CT" if words == {"ct"} else "MR" if words <= _MR else "",
            channels=channels or ("image",),
            source=Source(url=self.reference.strip(), licence=(self.licence or self.license).strip()),
            **rest,
        )


class _Nnunet(_Described):
    channel_names: _Numbered
    labels: dict[Text, Any]
    file_ending: Text


class _Item(Lenient):
    id: Annotated[str, BeforeValidator(str)] = ""
    image: Images
    label: Text = ""
    target: Text = ""
    fold: Count | None = None


def _as_item(item: Any) -> Any:
    return {"image": item} if isinstance(item, str) else item


_Items = tuple[Annotated[_Item, BeforeValidator(_as_item)], ...]


class _Decathlon(_Described):
    modality: _Numbered = ()
    labels: dict[Text, Text] = Field(default_factory=dict)
    training: _Items = ()
    validation: _Items = ()
    test: _Items = ()
    testing: _Items = ()


class _List(Lenient):
    studies: _Items


def of_nnunet(file: Path, content: dict[str, Any]) -> Manifest:
    """A manifest of nnU-Net v2, with cases in imagesTr, labelsTr and imagesTs, and channels ``_0000`` ...

    Raises
    ------
    MedvitError
        If channels or labels are not stated as nnU-Net requires.
    """
    stated = checked(_Nnunet, file, content)
    ending = stated.file_ending
    layout = Layout(
        images=f"imagesTr/{{case}}_{{channel}}{ending}",
        label=f"labelsTr/{{case}}{ending}",
        unlabelled=f"imagesTs/{{case}}_{{channel}}{ending}",
        channels=tuple(f"{number:04d}" for number in range(len(stated.channel_names))),
    )
    expected = Expected(labelled=stated.numTraining)
    labels = _nnunet_labels(file, stated.labels)
    return stated.manifest(file, stated.channel_names, layouts=(layout,), expected=expected, **labels)


def of_decathlon(file: Path, content: dict[str, Any]) -> Manifest:
    """A decathlon manifest, which lists the cases; lists of channels and the key ``fold`` are allowed.

    Raises
    ------
    MedvitError
        If modalities, labels or cases are not stated as in the decathlon.
    """
    stated = checked(_Decathlon, file, content)
    if not all(key.isdigit() for key in stated.labels):
        raise MedvitError(f"{file}: labels must give a name to each value")
    names = {int(key): name for key, name in stated.labels.items() if int(key)}
    labels, values = _table(file, names) if names else (None, ())
    items = [(section, item) for section in SECTIONS for item in getattr(stated, section)]
    if not items:
        raise MedvitError(f"{file}: training lists no case")
    cases = _listed(file, [item for _, item in items])
    splits: dict[str, tuple[str, ...]] = {}
    for (section, item), case in zip(items, cases, strict=True):
        split = section if item.fold is None else f"fold{item.fold}"
        splits[split] = (*splits.get(split, ()), case.id)
    expected = Expected(stated.numTraining, stated.numTest)
    return stated.manifest(
        file, stated.modality, labels=labels, values=values, splits=splits, cases=cases, expected=expected
    )


def of_list(file: Path, content: Any) -> Manifest:
    """A list of studies: paths, or objects with ``image`` and optionally ``id``, ``label`` and ``target``.

    Raises
    ------
    MedvitError
        If an entry names no image, or an id occurs twice.
    """
    stated = checked(_List, file, {"studies": content} if isinstance(content, list) else content)
    return Manifest(path=file, name=file.stem, cases=_listed(file, stated.studies))


def of_csv(file: Path) -> Manifest:
    """A table with a column ``image``, or one for each channel (``image_t1c``); optionally ``id``, ``label``.

    Raises
    ------
    MedvitError
        If there is no such column, or an id occurs twice.
    """
    with file.open(newline="", encoding="utf-8-sig") as opened:
        first = opened.readline()
        opened.seek(0)
        rows = csv.DictReader(opened, delimiter=";" if first.count(";") > first.count(",") else ",")
        columns = [name for name in rows.fieldnames or () if name.lower().startswith("image")]
        if not columns:
            raise MedvitError(f"{file} has no column 'image'; its first line must name the columns")
        names = [name[5:].strip(" _-") for name in columns]
        items = []
        for row in rows:
            paths = {name: row[column] for name, column in zip(names, columns, strict=True) if row[column]}
            if paths:
                named = len(paths) == len(columns) and not any(n == "" or n.isdigit() for n in names)
                image = paths if named else list(paths.values())
                rest = {key: row[key] for key in ("id", "label", "target") if row.get(key)}
                items.append({"image": image, **rest})
    return of_list(file, items)


def _listed(file: Path, items: Sequence[_Item]) -> tuple[ListedCase, ...]:
    """The cases of a list, with ids from their paths where the list gives none."""
    ids = _ids(file, [item.image[0][0] for item in items])
    cases = tuple(
        ListedCase(item.id or one, item.image[0], item.label, item.target, item.image[1], bool(item.id))
        for item, one in zip(items, ids, strict=True)
    )
    times = Counter(case.id for case in cases)
    if twice := [case.id for case in cases if times[case.id] > 1]:
        raise MedvitError(f"{file} gives the id {twice[0]!r} to two studies; ids must be unique")
    return cases


def _ids(file: Path, images: Sequence[str]) -> list[str]:
    """The names of the first images or, if two are equal, their paths below their common folder."""
    paths = [Path(os.path.normpath(file.parent.absolute() / image)) for image in images]
    names = [stem_of(path) for path in paths]
    if len({*names}) < len(names):
        root = os.path.commonpath([path.parent for path in paths])
        names = ["_".join((*path.relative_to(root).parts[:-1], stem_of(path))) for path in paths]
    return [safe_name(name) for name in names]


def _nnunet_labels(file: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """Structures by value; if labels are overlapping regions, their parts are the structures."""
    given = {name: value for name, value in stated.items() if name not in ("background", "ignore")}
    parts = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    for name, numbers in ({**parts, "ignore": [stated["ignore"]]} if "ignore" in stated else parts).items():
        if not numbers or not all(type(value) is int and value > 0 for value in numbers):
            raise MedvitError(f"{file}: labels.{name} must be a whole number from 1, or a list of them")
    ignore = stated.get("ignore")
    distinct = sorted({value for values in parts.values() for value in values})
    if ignore in distinct:
        raise MedvitError(f"{file}: labels gives the value of ignore, {ignore}, to a structure as well")
    alone = {values[0]: name for name, values in parts.items() if len(values) == 1}
    if len(alone) < sum(len(values) == 1 for values in parts.values()):
        raise MedvitError(f"{file}: labels gives one value to two names")
    labels, values = _table(file, {value: alone.get(value, f"label {value}") for value in distinct})
    found: dict[str, Any] = {"labels": labels, "values": values, "ignore": ignore}
    if all(not isinstance(value, list) for value in given.values()):
        return found
    named = {value: alone.get(value, f"label {value}") for value in distinct}
    regions = {name: tuple(named[value] for value in values) for name, values in parts.items()}
    note = (
        f"The regions {', '.join(regions)} may overlap, so their parts are learned "
        f"({', '.join(named.values())}); the regions are put together from these to be scored, as by "
        f"medvit evaluate --labels {file.name}."
    )
    return found | {"regions": regions, "notes": (note,)}


def _table(file: Path, names: dict[int, str]) -> tuple[LabelTable, tuple[int, ...]]:
    values = tuple(sorted(names))
    # Structures are numbered from 1 inside; results are written in the values of the files again.
    structures: Iterable[dict[str, Any]] = [
        {"name": names[value]} | ({"stored": value} if value != number else {})
        for number, value in enumerate(values, start=1)
    ]
    return parse_label_table({"name": file.absolute().parent.name, "structures": structures}), values
