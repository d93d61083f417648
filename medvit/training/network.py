"""The network of a bundle made to fit other data: channels, classes, window, and the weights carried over."""

from __future__ import annotations

import copy
import inspect
import pydoc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from medvit.bundles import Bundle
from medvit.data.labels import LabelTable, Structure
from medvit.errors import MedvitError
from medvit.networks.published import read_checkpoint

_LATERAL = "medvit.networks.LateralSegmenter"
_STEP = 32  # voxels by which window edges grow, where the network does not refuse it
# What a trained parameter takes beside itself: its gradient, two moments of AdamW and the moving average.
_COPIES = 5


def network_definition(bundle: Bundle) -> dict[str, Any]:
    """The configuration of a bundle's network, without what tells left from right behind it.

    Raises
    ------
    MedvitError
        If the bundle states its network in another way than by a class and its channels.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    definition = parser.get("network_def")
    if isinstance(definition, dict) and definition.get("_target_") == _LATERAL:
        definition = definition["network"]
    if not isinstance(definition, dict) or not {"in_channels", "out_channels"} <= set(definition):
        raise MedvitError(
            f"{bundle.config('inference')}: network_def names no class with in_channels and out_channels, "
            "so it cannot be fitted to other data; train from another bundle"
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


def build(definition: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration, freshly initialised."""
    return ConfigParser({"network": copy.deepcopy(dict(definition))}).get_parsed_content("network")


def refusal(definition: Mapping[str, Any], window: Sequence[int]) -> str:
    """Why the network cannot take a window, in its own words; empty if it can."""
    try:
        network = build(fitted(definition, 1, 2, window)).to("meta").eval()
        with torch.no_grad():
            network(torch.empty(1, 1, *window, device="meta"))
    except (ValueError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return ""


def training_bytes(network: nn.Module, shape: Sequence[int]) -> int | None:
    """Memory that a training step takes: what autograd keeps, and all copies of the parameters.

    Parameters
    ----------
    network
        Left as it is.
    shape
        Of a batch, (B, C, ...).

    Returns
    -------
    int or None
        Bytes in float32; ``None`` where the network has operations that only real numbers tell.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    try:
        model = copy.deepcopy(network).to("meta").train()
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.empty(tuple(shape), device="meta"))
    except (RuntimeError, ValueError, NotImplementedError):
        return None
    activations = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    return activations + _COPIES * parameters


def window_for(
    definition: Mapping[str, Any],
    median: Sequence[int],
    own: Sequence[int],
    affordable: Callable[[Sequence[int]], bool],
) -> tuple[int, ...]:
    """The largest affordable window of the shape of the studies that the network takes.

    Parameters
    ----------
    definition
        Of the network.
    median
        Shape of the studies, in voxels, along the network's axes.
    own
        The bundle's own window, which is taken where nothing else is known to work.
    affordable
        Whether there is memory for a window.
    """
    if refusal(definition, own):
        # The network cannot be asked without real numbers.
        return tuple(own)
    window = [max(-(-n // _STEP), 1) * _STEP for n in median]
    while not affordable(window) and max(window) > _STEP:
        # The axis of which the window covers most gives way.
        axes = [a for a, edge in enumerate(window) if edge > _STEP]
        axis = max(axes, key=lambda a: (window[a] / median[a], window[a]))
        window[axis] -= _STEP
    while refusal(definition, window):
        smaller = [a for a, edge in enumerate(window) if edge < own[a]]
        if not smaller:
            return tuple(own)
        window[smaller[0]] = own[smaller[0]]
    return tuple(window)


@dataclass(frozen=True)
class CarriedOver:
    """What a network has from another one.

    Parameters
    ----------
    taken, in_part, total
        Tensors that were taken over whole, those of which some classes were, and all there are.
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

    Of a tensor that differs in the number of classes alone, the rows of the background and of the
    structures that both have, by code and side or by name, are taken.

    Parameters
    ----------
    network
        Its classes are background and the structures of `table`.
    bundle
        May lack weights; then nothing is taken.

    Raises
    ------
    WeightsError
        If the weights are there but cannot be opened.
    """
    own = network.state_dict()
    if not bundle.weights.is_file():
        return CarriedOver(0, 0, len(own), ())
    given = read_checkpoint(bundle.weights)
    lateral = _is_lateral(bundle)
    if lateral:
        given = {name.removeprefix("network."): value for name, value in given.items()}
    names = _names_by_channel(bundle.label_table, lateral)
    known = {0: 0} | {s.value: c for s in table if (c := _channel_of(s, names, lateral)) is not None}
    taken = in_part = 0
    for name, value in own.items():
        other = given.get(name)
        if other is None:
            continue
        if other.shape == value.shape:
            own[name] = other.to(value.dtype)
            taken += 1
        elif len(known) > 1 and _copied(value, other, known, len(table) + 1, len(names) + 1 + lateral):
            in_part += 1
    network.load_state_dict(own)
    shared = tuple(s.name for s in table if s.value in known) if in_part else ()
    return CarriedOver(taken, in_part, len(own), shared)


def _is_lateral(bundle: Bundle) -> bool:
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    return parser.get("network_def", {}).get("_target_") == _LATERAL


def _names_by_channel(table: LabelTable | None, lateral: bool) -> dict[tuple[str, str, str], int]:
    """Channel of each (name, code, side) of a bundle; where sides are told apart behind, without side."""
    if table is None:
        return {}
    if not lateral:
        return {(s.name.lower(), _code(s), s.side): s.value for s in table}
    unsided = dict.fromkeys((s.unsided_name.lower(), _code(s), "") for s in table)
    return {key: channel for channel, key in enumerate(unsided, start=1)}


def _channel_of(s: Structure, names: Mapping[tuple[str, str, str], int], lateral: bool) -> int | None:
    name, side = (s.unsided_name if lateral else s.name).lower(), "" if lateral else s.side
    for (other, code, other_side), channel in names.items():
        if other == name or (code == _code(s) and side == other_side and code.startswith("SCT")):
            return channel
    return None


def _code(structure: Structure) -> str:
    return f"{structure.code.scheme} {structure.code.value}"


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
