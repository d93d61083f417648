"""Published checkpoints: opening them safely and loading them into our networks without a silent gap."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvit.errors import WeightsError

# Keys under which training frameworks nest a state dict; averaged weights come before those beside them.
NESTINGS = (
    "state_dict_ema", "params_ema", "state_dict", "model_state_dict", "model", "network_weights", "net",
    "network", "weights", "params",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

StateDict = dict[str, Tensor]


# nnU-Net keeps its training log, numpy numbers, in the file of the weights, and masked autoencoders the
# arguments of the command. Neither holds code.
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    np.float64(0).__reduce__()[0],
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")),
]


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a published checkpoint.

    Parameters
    ----------
    matched
        Number of entries of the network that were filled.
    ignored
        Entries of the checkpoint that the network does not use by design, such as an unused head.
    """

    matched: int
    ignored: tuple[str, ...] = ()


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> StateDict:
    """The bare state dict inside a checkpoint, however it is nested.

    Parameters
    ----------
    source
        A ``.pt``/``.pth``/``.bin`` file, a ``.safetensors`` file, or what such a file holds.

    Returns
    -------
    dict
        Entry name to tensor, on the CPU, without a ``module.``-like prefix.

    Raises
    ------
    WeightsError
        If the file is missing, needs unpickling of anything but tensors, or holds no state dict.
    """
    content: Any = source
    if isinstance(source, str | Path):
        content = open_checkpoint(source)
    while isinstance(content, Mapping) and not _is_state_dict(content):
        nested = next((content[key] for key in NESTINGS if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            raise WeightsError(f"no state dict found: the checkpoint holds {sorted(map(str, content))[:8]}")
        content = nested
    if not isinstance(content, Mapping):
        raise WeightsError(f"no state dict found: the checkpoint is a {type(content).__name__}")
    return strip_prefix({name: value for name, value in content.items() if isinstance(value, Tensor)})


def strip_prefix(state: StateDict) -> StateDict:
    """`state` without the prefixes that wrappers put before every entry."""
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return strip_prefix({name[len(prefix) :]: value for name, value in state.items()})
    return state


# A pattern in the name of an entry, and its replacement, as for `re.sub`.
NameRule = tuple[str, str | Callable[[re.Match[str]], str]]


def rename(name: str, rules: Sequence[NameRule]) -> str:
    """`name` after all `rules`, each applied to the result of the ones before it."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(state: StateDict, rules: Sequence[NameRule]) -> StateDict:
    """`state` with every name after all `rules`."""
    return {rename(name, rules): value for name, value in state.items()}


def load_strictly(
    network: nn.Module,
    published: StateDict,
    rename: Callable[[StateDict], StateDict],
    *,
    ignored: tuple[str, ...] = (),
) -> LoadReport:
    """Load published entries into `network`, all of them or none.

    Parameters
    ----------
    network
        The network to fill, in place.
    published
        The authors' state dict, or our own.
    rename
        Converts the authors' names and layouts to the network's own; `dict` if they are the same.
    ignored
        Names in `published` that are left over by design.

    Raises
    ------
    WeightsError
        If an entry is missing, unexpected or of the wrong shape; the message names them.
    """
    own = network.state_dict()
    given = rename({name: value for name, value in published.items() if name not in ignored})
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in given and name not in counters]
    left_over = [name for name in given if name not in own]
    shapes = [
        f"{name} is {tuple(given[name].shape)}, the network needs {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    problems = [
        f"{title}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
        for title, names in (("missing", missing), ("left over", left_over), ("wrong shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(
            f"the checkpoint does not fit {type(network).__name__} "
            f"({len(own) - len(missing) - len(shapes)} of {len(own)} entries match); " + "; ".join(problems)
        )
    network.load_state_dict({**own, **given})
    return LoadReport(matched=len(given), ignored=ignored)


class PublishedNetwork(nn.Module):
    """A network that can load a checkpoint of its authors' code.

    A subclass defines in `_own_entries` and `_unused_entries` how its authors' entries differ from its own.
    """

    def load_published(self, source: str | Path | Mapping[str, Any]) -> LoadReport:
        """Fill the network from a checkpoint of the authors' code, every entry or none.

        Parameters
        ----------
        source
            A file (``.pth``, ``.bin``, ``.safetensors``) or what it holds.

        Returns
        -------
        LoadReport
            Entries that the network does not use by design are `ignored`.

        Raises
        ------
        WeightsError
            If the file is unsafe to open, an entry is missing, unexpected or of the wrong shape, or a table
            of indices is not the network's own.
        """
        published = read_checkpoint(source)
        return load_strictly(self, published, self._own_entries, ignored=self._unused_entries(published))

    def _own_entries(self, published: StateDict) -> StateDict:
        """The authors' entries under the network's own names and in its layouts."""
        return published

    def _unused_entries(self, published: StateDict) -> tuple[str, ...]:
        """Names of the authors' entries that the network does not use by design."""
        return ()


def open_checkpoint(path: str | Path) -> Any:
    """The whole content of a checkpoint file, including a training framework's own records.

    Raises
    ------
    WeightsError
        If the file is missing, or needs unpickling of anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a complete safetensors file ({error}); fetch it again") from None
    try:
        with torch.serialization.safe_globals(_PLAIN_VALUES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: not a file of plain tensors ({type(error).__name__}); "
            "medvit does not open pickled objects: save only the state dict, preferably as .safetensors"
        ) from error


def _is_state_dict(content: Mapping[str, Any]) -> bool:
    return (
        bool(content)
        and all(isinstance(name, str) for name in content)
        and any(isinstance(value, Tensor) for value in content.values())
    )
