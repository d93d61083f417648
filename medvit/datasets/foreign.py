"""Manifests in the words of others: ``dataset.json`` of nnU-Net v2 and of the Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvit.datasets.manifest import Expected, Layout, ListedCase, Manifest, Source
from medvit.datasets.section import Section
from medvit.studies.channels import canonical, stem_of
from medvit.studies.labels import LabelTable, parse_label_table

# Contrasts of MR; the last are the decathlon's words.
_MR = {"t1n", "t1c", "t2w", "t2f", "pd", "dwi", "adc", "swi", "mr", "mri", "lge", "cinemri"}
_SECTIONS = ("training", "validation", "test", "testing")


def of_nnunet(file: Path, content: dict[str, Any]) -> Manifest:
    """nnU-Net v2's: cases lie in imagesTr, labelsTr and imagesTs, channels are told by ``_0000`` and so on.

    Raises
    ------
    MedvitError
        If channels or labels are not stated as nnU-Net wants them.
    """
    top = Section(file, "", content)
    channels = _numbered(top.section("channel_names"))
    labels, values, regions = _nnunet_labels(top)
    ending = top.text("file_ending")
    layout = Layout(
        images=f"imagesTr/{{case}}_{{channel}}{ending}",
        label=f"labelsTr/{{case}}{ending}",
        unlabelled=f"imagesTs/{{case}}_{{channel}}{ending}",
        channels=tuple(f"{number:04d}" for number in range(len(channels))),
    )
    return _manifest(
        top,
        channels,
        labels=labels,
        values=values,
        regions=regions,
        layouts=(layout,),
        expected=Expected(labelled=top.number("numTraining", None)),
    )


def of_decathlon(file: Path, content: dict[str, Any]) -> Manifest:
    """The decathlon's, which lists the cases; lists of channels and the key ``fold`` are understood as well.

    Raises
    ------
    MedvitError
        If modalities, labels or cases are not stated as the decathlon does.
    """
    top = Section(file, "", content)
    channels = _numbered(top.section("modality")) or ("image",)
    stated = top.section("labels")
    names = {key: stated.text(key) for key in stated}
    if not all(key.isdigit() for key in names):
        top.refuse("labels", "must give a name to each value")
    labels, values = _table(file, {int(key): name for key, name in names.items()})
    cases: list[ListedCase] = []
    splits: dict[str, list[str]] = {}
    for split, case in _listed(top):
        cases.append(case)
        splits.setdefault(split, []).append(case.id)
    if not cases:
        top.refuse("training", "lists no case")
    return _manifest(
        top,
        channels,
        labels=labels,
        values=values,
        splits={name: tuple(ids) for name, ids in splits.items()},
        cases=tuple(cases),
        expected=Expected(top.number("numTraining", None), top.number("numTest", None)),
    )


def _manifest(top: Section, channels: tuple[str, ...], **rest: Any) -> Manifest:
    # What both state under the same keys, and the rest.
    return Manifest(
        path=top.file,
        name=top.text("name", top.file.absolute().parent.name),
        title=top.text("description", ""),
        modality=_modality(channels),
        channels=channels,
        source=_source(top),
        **rest,
    )


def _numbered(stated: Section) -> tuple[str, ...]:
    # {"0": "FLAIR", "1": "T1w", ...}
    keys = list(stated)
    if sorted(keys) != sorted(str(number) for number in range(len(keys))):
        stated.refuse("", f"must be numbered from 0 to {len(keys) - 1}")
    return tuple(stated.text(key) for key in sorted(keys, key=int))


def _listed(top: Section) -> Iterator[tuple[str, ListedCase]]:
    seen: set[str] = set()
    for section in _SECTIONS:
        for number, item in enumerate(top.items(section)):
            content = {"image": item} if isinstance(item, str) else item
            place = Section(top.file, f"{section}[{number}]", content)
            images = place.texts("image")
            if not images:
                place.refuse("image", "is missing")
            case = ListedCase(stem_of(Path(images[0])), images, place.text("label", ""))
            if case.id in seen:
                place.refuse("image", f"is the second case named {case.id}")
            seen.add(case.id)
            fold = place.number("fold", None)
            yield section if fold is None else f"fold{fold}", case


def _nnunet_labels(top: Section) -> tuple[LabelTable, tuple[int, ...], dict[str, tuple[str, ...]]]:
    """Structures by value; where labels are regions that overlap, the parts are named by their values."""
    stated = top.section("labels")
    if "ignore" in stated:
        stated.refuse(
            "ignore", "marks voxels to leave out, which medvit cannot: label them, or drop the cases"
        )
    given = {name: stated.content[name] for name in stated if name != "background"}
    parts = {name: part if isinstance(part, list) else [part] for name, part in given.items()}
    for name, values in parts.items():
        if not all(type(value) is int and value > 0 for value in values):
            stated.refuse(name, "must be a whole number from 1, or a list of them")
    distinct = sorted({value for values in parts.values() for value in values})
    if all(not isinstance(part, list) for part in given.values()):
        if len(distinct) < len(given):
            top.refuse("labels", "gives one value to two names")
        return *_table(top.file, {value: name for name, value in given.items()}), {}
    names = {value: f"label {value}" for value in distinct}
    regions = {name: tuple(names[value] for value in values) for name, values in parts.items()}
    return *_table(top.file, names), regions


def _table(file: Path, names: dict[int, str]) -> tuple[LabelTable, tuple[int, ...]]:
    values = tuple(sorted(value for value in names if value != 0))
    structures = [{"name": names[value]} for value in values]
    return parse_label_table({"name": file.absolute().parent.name, "structures": structures}), values


def _modality(channels: tuple[str, ...]) -> str:
    words = {canonical(channel) for channel in channels}
    return "CT" if words == {"ct"} else "MR" if words <= _MR else ""


def _source(top: Section) -> Source:
    licence = "licence" if "licence" in top else "license"
    return Source(url=top.text("reference", ""), licence=top.text(licence, ""))
