"""The window that a network is trained on: fitted to the studies, the network and the memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.training.network import build, fitted

_SHARE = 0.7  # of a GPU's free memory
_FINE, _COARSE = 16, 32  # voxels in whose multiples the edges of windows are tried
# Memory of a parameter in training besides itself: gradient, two moments of AdamW and moving average.
_COPIES = 5
# Voxels per step where the number of windows is not given, and the limits of that number.
_VOXELS = {2: 32 * 64**2, 3: 2 * 64**3}
_BATCH = {2: (8, 32), 3: (2, 8)}


def refusal(definition: Mapping[str, Any], window: Sequence[int], batch_size: int = 2) -> str:
    """Why the network cannot be trained on such windows, in the network's own words; empty if it can."""
    try:
        network = build(fitted(definition, 1, 2, window)).to("meta").train()
        with torch.no_grad():
            network(torch.empty(batch_size, 1, *window, device="meta"))
    except (ValueError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return ""


def training_bytes(network: nn.Module, shape: Sequence[int]) -> int | None:
    """Memory of a training step: the tensors that autograd keeps, and all copies of the parameters.

    Parameters
    ----------
    network
        Network to measure, which is not changed.
    shape
        Shape of a batch, (B, C, ...).

    Returns
    -------
    int or None
        Bytes in float32; ``None`` where the network has operations that depend on real values.
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

    Small studies are seen whole, each axis rounded up to a multiple of 16 voxels where the network takes
    that; of others, and for other networks, edges are multiples of 32.

    Parameters
    ----------
    definition
        Configuration of the network.
    median
        Shape of the studies, in voxels, along the network's axes.
    own
        The window of the base, which is used if nothing else is known to work.
    affordable
        Function that returns whether memory and time suffice for a window.
    """
    if refusal(definition, own):
        # The network cannot be asked without real numbers.
        return tuple(own)
    whole = [max(-(-n // _FINE) * _FINE, _COARSE) for n in median]
    if affordable(whole) and not refusal(definition, whole):
        return tuple(whole)
    window = [max(-(-n // _COARSE), 1) * _COARSE for n in median]
    while not affordable(window) and max(window) > _COARSE:
        # The axis of which the window covers the largest share is shortened.
        axes = [a for a, edge in enumerate(window) if edge > _COARSE]
        axis = max(axes, key=lambda a: (window[a] / median[a], window[a]))
        window[axis] -= _COARSE
    while refusal(definition, window):
        smaller = [a for a, edge in enumerate(window) if edge < own[a]]
        if not smaller:
            return tuple(own)
        window[smaller[0]] = own[smaller[0]]
    return tuple(window)


def affordable_on(
    device: torch.device, definition: Mapping[str, Any], own: Sequence[int], shape: tuple[int, int]
) -> Callable[[Sequence[int]], bool]:
    """Whether a window of given edges can be trained on `device`.

    Parameters
    ----------
    own
        Edges of the base's own window.
    shape
        Windows in a step, and channels.
    """

    def affordable(edges: Sequence[int]) -> bool:
        if device.type == "cuda":
            network = build(fitted(definition, shape[1], 2, edges))
            needed = training_bytes(network, (*shape, *edges))
            if needed is not None:
                return needed < _SHARE * torch.cuda.mem_get_info(device)[0]
        # On a CPU time is the limit: at most as many voxels as in the base's own window.
        return math.prod(edges) <= math.prod(own)

    return affordable


def batch_for(window: Sequence[int]) -> int:
    """The number of windows in a step; the smaller they are, the more."""
    low, high = _BATCH[len(window)]
    return min(max(round(_VOXELS[len(window)] / math.prod(window)), low), high)


def check_window(
    definition: Mapping[str, Any], window: Sequence[int], own: Sequence[int], batch_size: int
) -> None:
    """Refuse windows that the network cannot be trained on.

    Raises
    ------
    MedvitError
        With the network's own message and what to change.
    """
    why = refusal(definition, window, batch_size)
    # A network that rejects even its own window cannot be asked without real numbers.
    if why and not refusal(definition, own):
        size = " x ".join(map(str, window))
        raise MedvitError(
            f"the network cannot be trained on {batch_size} window(s) of {size} a step ({why}): "
            "choose another --patch-size or --batch-size"
        )


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the computer."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def smaller_window(window: Sequence[int]) -> tuple[int, ...]:
    """The next smaller window to try where memory ran out."""
    largest = int(np.argmax(window))
    return tuple(max(n - _COARSE, _COARSE) if a == largest else n for a, n in enumerate(window))
