"""The network of a bundle made to fit other data: channels, classes, window, and the weights carried over."""

from __future__ import annotations

import copy
import inspect
import pydoc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai.bundle import ConfigParser
from torch import Tensor, nn

from medvit.bundles import Bundle, open_bundle
from medvit.errors import MedvitError
from medvit.networks import LateralSegmenter
from medvit.networks.published import read_checkpoint
from medvit.studies.labels import LabelTable, Structure
from medvit.training.encoder_file import readout_names

_LATERAL = "medvit.networks.LateralSegmenter"


def network_definition(bundle: Bundle) -> dict[str, Any]:
    """The configuration of a bundle's network, without the part that tells left from right.

    Raises
    ------
    MedvitError
        If the bundle does not define its network by a class and its channels.
    """
    definition = _stated(bundle)
    if is_lateral(bundle):
        definition = definition["network"]
    if not isinstance(definition, dict) or not {"in_channels", "out_channels"} <= set(definition):
        raise MedvitError(
            f"{bundle.config('inference')}: network_def does not name a class with in_channels and "
            "out_channels, so it cannot be fitted to other data; train from another bundle"
        )
    return copy.deepcopy(definition)


def fitted(
    definition: Mapping[str, Any], in_channels: int, out_channels: int, window: Sequence[int]
) -> dict[str, Any]:
    """`definition` for other data; `window` has the network's own number of axes."""
    result = {**copy.deepcopy(dict(definition)), "in_channels": in_channels, "out_channels": out_channels}
    known = inspect.signature(pydoc.locate(str(result["_target_"]))).parameters  # type: ignore[arg-type]
    if "img_size" in known:
        result["img_size"] = list(window)
    if "deep_supervision" in known:
        result["deep_supervision"] = False
    return result


def lateral(definition: Mapping[str, Any], table: LabelTable) -> dict[str, Any]:
    """A network with one channel for each structure and one for the side, after which sides are separated."""
    structures = [{"name": s.name, "side": s.side} for s in table]
    return {
        "_target_": _LATERAL,
        "table": {"name": table.name, "structures": structures},
        "network": {**definition, "out_channels": len(unsided(table)) + 2},
    }


def unsided(table: LabelTable) -> list[str]:
    """The structures of a table, each once, in order."""
    return list(dict.fromkeys(s.unsided_name for s in table))


def build(definition: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration, freshly initialised."""
    return ConfigParser({"network": copy.deepcopy(dict(definition))}).get_parsed_content("network")


def readout_of(definition: Mapping[str, Any], channels: int, window: Sequence[int]) -> set[str]:
    """Names of the entries of a network that depend on its number of classes."""
    both = (build(fitted(definition, channels, classes, window)) for classes in (2, 3))
    return readout_names(*both)


@dataclass(frozen=True)
class CarriedOver:
    """Parts of a network that come from another one.

    Parameters
    ----------
    taken, in_part, total
        Tensors that were taken as a whole, those of which some classes were taken, and all tensors.
    structures
        Names of the structures whose readout was taken over.
    """

    taken: int
    in_part: int
    total: int
    structures: tuple[str, ...]

    def sentence(self, source: str) -> str:
        """What was taken over from `source`."""
        if not self.taken:
            return f"no tensor of {source} fits: the network starts from scratch"
        part = f" and {self.in_part} in part ({', '.join(self.structures)})" if self.in_part else ""
        return f"{self.taken} of {self.total} tensors taken from {source}{part}; the rest is new"


def carry_over(network: nn.Module, bundle: Bundle, table: LabelTable) -> CarriedOver:
    """Fill `network` with every tensor of a bundle that has its name and shape.

    From a tensor that differs only in the number of classes, the rows of the background and of the common
    structures, by code and side or by name, are taken.

    Parameters
    ----------
    network
        Network to fill; its classes are background and the structures of `table`.
    bundle
        Source of the weights; if it has none, nothing is taken.

    Raises
    ------
    WeightsError
        If the weights exist but cannot be opened.
    """
    own = network.state_dict()
    if not bundle.weights.is_file():
        return CarriedOver(0, 0, len(own), ())
    readout, other = _Readout(table, isinstance(network, LateralSegmenter)), _Readout.of(bundle)
    given = {other.bare(name): value for name, value in read_checkpoint(bundle.weights).items()}
    known = readout.known_to(other)
    taken = in_part = 0
    for name, value in own.items():
        tensor = given.get(readout.bare(name))
        if tensor is None:
            continue
        if tensor.shape == value.shape:
            own[name] = tensor.to(value.dtype)
            taken += 1
        elif len(known) > 1 and _copied(value, tensor, known, readout.channels, other.channels):
            in_part += 1
    network.load_state_dict(own)
    shared = tuple(s.name for s in table if readout.channel_of(s) in known) if in_part else ()
    return CarriedOver(taken, in_part, len(own), shared)


@dataclass(frozen=True)
class _Readout:
    """Meaning of the channels of a network: background, structures, and the side if it has its own channel.

    Parameters
    ----------
    table
        The structures; `None` where they are not known.
    lateral
        Whether structures appear once, and a last channel states the side.
    """

    table: LabelTable | None
    lateral: bool

    @classmethod
    def of(cls, bundle: Bundle) -> _Readout:
        return cls(bundle.label_table, is_lateral(bundle))

    @property
    def channels(self) -> int:
        if self.table is None:
            return 0
        return len(unsided(self.table)) + 2 if self.lateral else len(self.table) + 1

    def bare(self, name: str) -> str:
        """The name of a tensor in the network itself."""
        return name.removeprefix("network.") if self.lateral else name

    def channel_of(self, structure: Structure) -> int:
        if not self.lateral or self.table is None:
            return structure.value
        return unsided(self.table).index(structure.unsided_name) + 1

    def known_to(self, other: _Readout) -> dict[int, int]:
        """The common channels, by code and side or by name: here, and in the other."""
        known = {0: 0}
        for s in self.table or ():
            for t in other.table or ():
                sided = not self.lateral and not other.lateral
                coded = s.code.scheme == t.code.scheme == "SCT" and s.code.value == t.code.value
                names = (s.name, t.name) if sided else (s.unsided_name, t.unsided_name)
                if names[0].lower() == names[1].lower() or (coded and (not sided or s.side == t.side)):
                    known.setdefault(self.channel_of(s), other.channel_of(t))
        if self.lateral and other.lateral:
            known[self.channels - 1] = other.channels - 1
        return known


def is_lateral(bundle: Bundle) -> bool:
    """Whether a bundle's network tells left from right in a separate channel."""
    definition = _stated(bundle)
    return isinstance(definition, dict) and definition.get("_target_") == _LATERAL


def _stated(bundle: Bundle) -> Any:
    return open_bundle(bundle).stated("network_def")


def _copied(value: Tensor, other: Tensor, known: Mapping[int, int], classes: int, before: int) -> bool:
    """Copy the classes that both readouts have; each may have several rows a class, side by side."""
    if not value.ndim or value.shape[1:] != other.shape[1:]:
        return False
    rows = len(value) // classes
    if rows == 0 or rows * classes != len(value) or rows * before != len(other):
        return False
    for channel, source in known.items():
        value[channel * rows : (channel + 1) * rows] = other[source * rows : (source + 1) * rows]
    return True
