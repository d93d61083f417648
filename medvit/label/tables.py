"""The label table of a bundle: the one that it names, or one made from its channel names."""

from __future__ import annotations

from typing import Any

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.studies.labels import Code, LabelTable, Structure, spread_color

# For structures of bundles that state no code, PS3.16 CID 7150 and its parent concept in SNOMED CT.
_ANATOMY = Code("123037004", "Anatomical Structure")
_UNCODED = Code("91723000", "Anatomical structure")


def label_table(bundle: Bundle) -> LabelTable | None:
    """The structures that a bundle segments; `None` for one that restores images.

    Raises
    ------
    MedvitError
        If its labels do not run from 1 without a gap, or its metadata contradicts its label table.
    """
    file = bundle.path / "configs" / "metadata.json"
    prediction = _prediction(bundle)
    channels = {int(k): str(v).lower() for k, v in prediction.get("channel_def", {}).items()}
    table = bundle.label_table
    if table is not None:
        stated = {int(k): v for k, v in table.channel_def.items()}
        if channels and channels != stated:
            raise MedvitError(
                f"{file}: channel_def is not the label table {table.name!r} that it names; make them equal"
            )
        return table
    if prediction.get("format") != "segmentation":
        return None
    if list(channels) != list(range(len(channels))) or len(channels) < 2:
        raise MedvitError(
            f"{file}: channel_def has the channels {', '.join(map(str, channels)) or 'none'}; "
            "viewers need background as 0 and labels from 1 on without a gap"
        )
    return named_table(bundle.name, [channels[k] for k in range(1, len(channels))])


def named_table(name: str, names: list[str], known: dict[str, Structure] | None = None) -> LabelTable:
    """A table of `names`, the first with value 1; codes and colours from `known` where it has the name."""
    structures = []
    for value, structure in enumerate(names, start=1):
        like = (known or {}).get(structure.lower())
        structures.append(
            Structure(
                value=value,
                name=structure,
                color=like.color if like else spread_color(value),
                code=like.code if like else _UNCODED,
                category=like.category if like else _ANATOMY,
                side=like.side if like else "",
            )
        )
    return LabelTable(name, tuple(structures))


def _prediction(bundle: Bundle) -> dict[str, Any]:
    try:
        return bundle.metadata["network_data_format"]["outputs"]["pred"]
    except KeyError as error:
        raise MedvitError(f"bundle {bundle.name}: its metadata has no {error} of the output 'pred'") from None
