"""The file of a pre-trained encoder: tensors and a header that describes them but no patients."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.networks.masked_autoencoder import on_grid
from medvit.studies.files import atomic_path

_HEADER = "medvit_pretraining"
_POSITIONS = ("position", "position_embeddings")  # tables of TransUNet and of MONAI's UNETR
_REPEATS = 3  # inputs for a single image channel in TransUNet and CSwinUNet
PATCH = 16  # voxels along the edge of a patch of a plain vision transformer


@dataclass(frozen=True)
class PretrainingHeader:
    """Description of a pre-trained encoder and its origin. It names no path, study or patient.

    Parameters
    ----------
    network
        Configuration of the network, whose readout is left out of the file.
    base
        Bundle whose network it is, or name and size of the network.
    start
        ``"weights"`` of the bundle or ``"scratch"``.
    task, mask_ratio, cell
        Self-supervised task; share and edge in voxels of the masked cells, 0 where it has none.
    window, spacing
        Edges of a window in voxels, and of a voxel in mm.
    modality
        Modality of the studies, where they state it.
    studies, patients
        Number of studies and of patients.
    studies_sha256
        Digest of the sorted digests of the images' voxels, which identifies equal sets.
    steps, seed
        Optimiser steps and seed.
    loss
        Masked error over the training, and on the studies kept apart, as (step, value).
    medvit
        Version of medvit.
    prefixes
        What the names of the network's entries in the file begin with; empty where all but the readout are.
    """

    network: dict[str, Any]
    base: str
    start: str
    task: str
    mask_ratio: float
    cell: int
    window: list[int]
    spacing: list[float] | None
    modality: str
    studies: int
    patients: int
    studies_sha256: str
    steps: int
    seed: int
    medvit: str
    loss: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Sentence for the card of a bundle that starts from it."""
        cells = f", {self.mask_ratio:.0%} of cells of {self.cell} voxels" if self.cell else ""
        return (
            f"pre-trained without labels on {self.studies} studies of {self.patients} patients "
            f"({self.task}{cells}, {self.steps} steps, "
            f"from {'the weights of ' + self.base if self.start == 'weights' else 'scratch'})"
        )


def save_encoder(path: str | Path, state: Mapping[str, Tensor], header: PretrainingHeader) -> None:
    """Write an encoder and its header as one safetensors file, whole or not at all."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_path(Path(path)) as partial:
        # Written here: safetensors would hide a full disk, and keep the file from other users.
        partial.write_bytes(save(tensors, metadata={_HEADER: json.dumps(asdict(header))}))


def read_encoder(path: str | Path) -> tuple[dict[str, Tensor], PretrainingHeader]:
    """The tensors and the header of a pre-trained encoder.

    Raises
    ------
    WeightsError
        If the file is missing, broken, or not one that `medvit pretrain` wrote.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file of pre-trained weights")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a valid safetensors file ({error})") from error
    if text is None:
        raise WeightsError(f"{path}: was not written by medvit pretrain, so its content is unknown")
    try:
        return tensors, PretrainingHeader(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: its header cannot be read; write it again with this version") from error


def readout_names(network: nn.Module, wider: nn.Module) -> set[str]:
    """Entries whose shape depends on the number of output channels: those of the readout."""
    own, other = network.state_dict(), wider.state_dict()
    return {name for name in own if name not in other or own[name].shape != other[name].shape}


def load_encoder(network: nn.Module, path: str | Path, *, readout: set[str]) -> tuple[int, PretrainingHeader]:
    """Fill all of `network` but its readout from a pre-trained encoder, every entry of it or none.

    A first layer of one channel is spread over several: repeated and divided by their number.

    Parameters
    ----------
    network
        Network to fill, in place.
    path
        File that `medvit pretrain` wrote.
    readout
        Names of the network's entries that keep what they have.

    Returns
    -------
    matched
        Number of entries that were filled.
    header
        Header of the file.

    Raises
    ------
    WeightsError
        If an entry is missing, left over or misshapen, or the network is another.
    """
    state, header = read_encoder(path)
    own = network.state_dict()
    begun = tuple(header.prefixes) or ("",)
    wanted = {name for name in own if name not in readout and name.startswith(begun)}
    missing, left_over = sorted(wanted - set(state)), sorted(set(state) - wanted)
    fitting = {}
    misshapen = []
    for name in sorted(wanted & set(state)):
        value, target = state[name], own[name]
        if name.endswith(_POSITIONS) and value.shape[1] != target.shape[1]:
            value = _resized(value, header, network)
        value = _spread(value, target, header)
        if value.shape != target.shape:
            misshapen.append(name)
        fitting[name] = value.to(target.dtype)
    problems = [
        f"{word}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for word, names in (("missing", missing), ("left over", left_over), ("wrong shape", misshapen))
        if names
    ]
    if problems:
        raise WeightsError(
            f"{path}: pre-trained for the network of {header.base}, it does not fit this one; "
            + "; ".join(problems)
        )
    network.load_state_dict({**own, **fitting})
    return len(fitting), header


def _resized(table: Tensor, header: PretrainingHeader, network: nn.Module) -> Tensor:
    """A position table (1, tokens, C) of the window of the pre-training, for the network's own grid."""
    net: Any = network
    own = tuple(net.grid if hasattr(net, "grid") else net.feat_size)  # TransUNet, UNETR
    before = [n // PATCH for n in header.window]
    if table.shape[1] != math.prod(before) or len(before) != len(own):
        return table
    return on_grid(table, before, own)


def _spread(value: Tensor, target: Tensor, header: PretrainingHeader) -> Tensor:
    """A layer that saw the one image channel of the pre-training, for as many as `target` sees."""
    alike = value.ndim == target.ndim > 2 and value[:, 0].shape == target[:, 0].shape
    if header.network.get("in_channels") != 1 or not alike or value.shape[1] == target.shape[1]:
        return value
    if value.shape[1] == _REPEATS:
        value = value.sum(dim=1, keepdim=True)  # they saw the same image, so only the sum matters
    times, rest = divmod(target.shape[1], value.shape[1])
    return value if rest else value.repeat(1, times, *(1,) * (value.ndim - 2)) / times
