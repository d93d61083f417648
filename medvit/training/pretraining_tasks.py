"""Tasks of pre-training without labels: masked cells, and the three tasks of Swin UNETR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.losses import SwinPretrainingLoss
from medvit.networks import SwinPretrainer
from medvit.networks.swin_pretraining import cut_out, turn
from medvit.training.encoder_file import readout_names
from medvit.training.masking import MaskedWindows, masked_l1
from medvit.training.network import build, fitted


@dataclass(frozen=True)
class MadeFor:
    """The network, the windows and the masks for which a task is made.

    Parameters
    ----------
    definition
        Configuration of the bundle's network.
    channels, window
        Image channels, and edges of the windows.
    mask_ratio, cell
        Share of the cells that are masked, and their edge in voxels; ``None`` for the default of the task.
    slice_axis
        Axis across the slices of volumes.
    """

    definition: Mapping[str, Any]
    channels: int
    window: Sequence[int]
    mask_ratio: float | None = None
    cell: int | None = None
    slice_axis: int = 2

    @property
    def network_class(self) -> str:
        """Class of the network, without its package."""
        return str(self.definition["_target_"]).rpartition(".")[2]


class Task(Protocol):
    """A network in pre-training and its loss.

    Attributes
    ----------
    words
        Name of the task, as headers and cards give it.
    mask_ratio, cell
        Share and edge in voxels of what is masked; 0 where the task has neither.
    network
        Network that is trained.
    shared
        Names of the entries of the pre-trained part, each with the one that it has in the bundle's network.
    prefixes
        What the names of the entries that the file holds begin with; empty for all but the readout.
    windows
        Edges of the windows of the steps, in turn; two edges are those of a slice.
    least_slices
        Slices below which a study lends slices, but no windows of three edges.
    """

    words: str
    mask_ratio: float
    cell: int
    network: nn.Module
    shared: dict[str, str]
    prefixes: tuple[str, ...]
    windows: tuple[tuple[int, ...], ...]
    least_slices: int

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """Loss of a batch, on the device of the network."""

    def encoder(self) -> dict[str, Tensor]:
        """Entries of the pre-trained part, under the names of the bundle's network."""

    def taken(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entries of the network that the weights of a bundle fill."""

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """Windows as the network sees them and what it predicts, for the page."""


def shared_entries(task: Task) -> dict[str, Tensor]:
    """The entries that a task shares with the bundle's network, under the names that they have there."""
    state = task.network.state_dict()
    return {theirs: state[own] for own, theirs in task.shared.items()}


def fitting_entries(task: Task, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a task's network that a bundle has under their name there, in their shape."""
    own = task.network.state_dict()
    return {
        name: given[theirs].to(own[name].dtype)
        for name, theirs in task.shared.items()
        if theirs in given and given[theirs].shape == own[name].shape
    }


class MaskedCells:
    """Cells of the input are noise, and the network itself predicts what was there.

    Parameters
    ----------
    made_for
        Network, windows and masks; 60 % of the cells are masked by default, and a cell has 8 voxels along
        an edge.

    Raises
    ------
    MedvitError
        If so few or so many cells would be masked that there is nothing to predict, or nothing to see.
    """

    words = "masked cells"
    prefixes: tuple[str, ...] = ()
    least_slices = 1

    def __init__(self, made_for: MadeFor) -> None:
        given, channels, window = made_for.mask_ratio, made_for.channels, made_for.window
        self.mask_ratio, self.cell = 0.6 if given is None else given, made_for.cell or 8
        cells = math.prod(-(-edge // self.cell) for edge in window)
        if not 0 < round(self.mask_ratio * cells) < cells:
            raise MedvitError(
                f"windows of {' x '.join(map(str, window))} voxels have {cells} cell(s), of which a share of "
                f"{self.mask_ratio:g} is all or none: choose another --cell, --mask-ratio or --patch-size"
            )
        self.network = build(fitted(made_for.definition, channels, channels, window))
        other = build(fitted(made_for.definition, channels, channels + 1, window))
        readout = readout_names(self.network, other)
        self.shared = {name: name for name in self.network.state_dict() if name not in readout}
        self.windows: tuple[tuple[int, ...], ...] = (tuple(window),)

    def _prediction(self, windows: MaskedWindows) -> Tensor:
        prediction = self.network(windows.masked)
        # Of deeply supervised networks the full resolution comes first.
        return prediction[0] if isinstance(prediction, list | tuple) else prediction

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """Mean absolute error within masked cells."""
        return masked_l1(self._prediction(windows), windows)

    def encoder(self) -> dict[str, Tensor]:
        """All entries but the readout."""
        return shared_entries(self)

    def taken(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entries of the same name and shape."""
        return fitting_entries(self, given)

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """The windows with masked cells and the prediction."""
        return windows, self._prediction(windows)


class SwinTasks:
    """Swin UNETR's own pre-training: by how much a window was turned, which views are of one, inpainting.

    Parameters
    ----------
    made_for
        Network and windows; nothing is masked.

    Raises
    ------
    MedvitError
        If the bundle's network is not a bare Swin UNETR, or the windows are not such as the tasks need.

    References
    ----------
    Tang et al. 2022, arXiv 2111.14791.
    """

    words = "rotation, contrast and inpainting"
    prefixes: tuple[str, ...] = ("swinViT.",)
    mask_ratio, cell = 0.0, 0
    least_slices = 1

    def __init__(self, made_for: MadeFor) -> None:
        definition, window = made_for.definition, made_for.window
        if made_for.network_class != "SwinUNETR":
            raise MedvitError(
                "--task swin is for a bare Swin UNETR, without a stem around it; pre-train this network with "
                "--task masked"
            )
        if window[0] != window[1] or any(n % 32 for n in window) or max(window) < 64:
            raise MedvitError(
                "--task swin turns windows in the plane of their first two axes: choose a --patch-size of "
                f"multiples of 32, two equal and one of 64 or more, not {' '.join(map(str, window))}"
            )
        known = ("feature_size", "depths", "num_heads", "window_size", "patch_merging")
        self.network = SwinPretrainer(
            made_for.channels, **{k: definition[k] for k in known if k in definition}
        )
        state = self.network.state_dict()
        self.shared = {name: name for name in state if name.startswith(self.prefixes)}
        self.windows: tuple[tuple[int, ...], ...] = (tuple(window),)
        self.criterion = SwinPretrainingLoss()

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """The sum of the three losses over two views of each window."""
        target = windows.target
        turns = torch.randint(4, (2 * len(target),), generator=generator)
        turned = turn(torch.cat([target, target]), turns)
        cut = torch.cat([cut_out(view, generator) for view in turned.chunk(2)])
        views = self.network(cut)
        first, second = views.contrast.chunk(2)
        parts = views.rotation, turns.to(target.device), first, second, views.reconstruction, turned
        return self.criterion(*parts).total

    def encoder(self) -> dict[str, Tensor]:
        """The encoder under the names that it has in `SwinUNETR`."""
        return shared_entries(self)

    def taken(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entries of the same name and shape."""
        return fitting_entries(self, given)

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """The windows with their cut-outs, and the reconstruction of the whole."""
        cut = cut_out(windows.target, torch.Generator().manual_seed(0))
        shown = MaskedWindows(windows.target, cut, torch.ones_like(windows.mask))
        return shown, self.network(cut).reconstruction
