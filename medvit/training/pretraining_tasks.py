"""Tasks of pre-training without labels: masked cells, removed patches, or the three tasks of Swin UNETR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.losses import SwinPretrainingLoss
from medvit.networks import MaskedAutoencoder, SwinPretrainer
from medvit.networks.swin_pretraining import cut_out, turn
from medvit.training.encoder_file import readout_names
from medvit.training.masking import MaskedWindows, masked_l1
from medvit.training.network import build, fitted

PATCH = 16  # pixels of a patch of the plain vision transformer
TASKS = ("masked", "mae", "swin")
_DECODER = {"decoder_dim": 192, "decoder_depth": 2, "decoder_num_heads": 6}


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
        Share of the cells that are masked, ``None`` for the default of the task, and their edge in voxels.
    """

    definition: Mapping[str, Any]
    channels: int
    window: Sequence[int]
    mask_ratio: float | None = None
    cell: int = 8

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
    left
        Entries of the network that are neither taken from bundles nor written for them.
    prefixes
        What the names of the entries that the file holds begin with; empty for all but those left.
    """

    words: str
    mask_ratio: float
    cell: int
    network: nn.Module
    left: set[str]
    prefixes: tuple[str, ...]

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """Loss of a batch, on the device of the network."""

    def encoder(self) -> dict[str, Tensor]:
        """Entries of the pre-trained part, under the names of the bundle's network."""

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """Windows as the network sees them and what it predicts, for the page."""


class MaskedCells:
    """Cells of the input are noise, and the network itself predicts what was there.

    Parameters
    ----------
    made_for
        Network, windows and masks; 60 % of the cells are masked by default.
    """

    words = "masked cells"
    prefixes: tuple[str, ...] = ()

    def __init__(self, made_for: MadeFor) -> None:
        given, channels, window = made_for.mask_ratio, made_for.channels, made_for.window
        self.mask_ratio, self.cell = 0.6 if given is None else given, made_for.cell
        self.network = build(fitted(made_for.definition, channels, channels, window))
        other = build(fitted(made_for.definition, channels, channels + 1, window))
        self.left = readout_names(self.network, other)

    def _prediction(self, windows: MaskedWindows) -> Tensor:
        prediction = self.network(windows.masked)
        # Of deeply supervised networks the full resolution comes first.
        return prediction[0] if isinstance(prediction, list | tuple) else prediction

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """Mean absolute error within masked cells."""
        return masked_l1(self._prediction(windows), windows)

    def encoder(self) -> dict[str, Tensor]:
        """All entries but the readout."""
        return {name: v for name, v in self.network.state_dict().items() if name not in self.left}

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """The windows with masked cells and the prediction."""
        return windows, self._prediction(windows)


class MaskedPatches:
    """Most patches are removed, a plain vision transformer encodes the others, a decoder predicts the rest.

    Parameters
    ----------
    made_for
        Network, windows and masks; 75 % of the patches are removed by default, and a cell is a patch.

    Raises
    ------
    MedvitError
        If the bundle's network is not a plain vision transformer, or patches do not divide the window.

    References
    ----------
    He et al. 2022, "Masked autoencoders are scalable vision learners", CVPR.
    """

    words = "masked patches"
    prefixes = ("embed.", "position", "blocks.", "norm.")
    cell = PATCH

    def __init__(self, made_for: MadeFor) -> None:
        channels, window = made_for.channels, made_for.window
        network = fitted(made_for.definition, channels, 2, window)
        if made_for.network_class != "TransUNet" or network.get("resnet_depths", ()) is not None:
            raise MedvitError(
                "--task mae is for a plain vision transformer (TransUNet with resnet_depths null); "
                "pre-train this network with --task masked"
            )
        if any(n % PATCH for n in window):
            raise MedvitError(
                f"--task mae needs windows in multiples of {PATCH}: choose another --patch-size"
            )
        self.mask_ratio = 0.75 if made_for.mask_ratio is None else made_for.mask_ratio
        own: Any = build(network)
        dim, heads = int(own.position.shape[-1]), int(network.get("num_heads", 12))
        self.repeats = own.embed.in_channels // channels
        hidden = int(network.get("mlp_dim", 3072))
        self.network: MaskedAutoencoder = MaskedAutoencoder.of_images(
            channels, window, (PATCH, PATCH), dim, depth=len(own.blocks), num_heads=heads,
            mlp_ratio=hidden / dim, normalise_targets=True, **_DECODER,
        )  # fmt: skip
        shared = ("blocks.", "norm.")
        self.left = {name for name in self.network.state_dict() if not name.startswith(shared)}

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """Mean squared error over the removed patches, each less its mean and by its deviation."""
        return self._predicted(windows, generator)[0]

    def _predicted(self, windows: MaskedWindows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        tokens = math.prod(n // PATCH for n in windows.target.shape[2:])
        noise = torch.rand(len(windows.target), tokens, generator=generator)
        return self.network(windows.target, self.mask_ratio, noise.to(windows.target.device))

    def encoder(self) -> dict[str, Tensor]:
        """Embedding, position table, blocks and norm, as `TransUNet` names them."""
        state = self.network.state_dict()
        names = [name for name in state if name not in self.left]
        # A slice that is repeated to several channels gives the same tokens by a share of the weights.
        weight = state["entrances.0.proj.weight"]
        table = state["entrances.0.position"] + 0
        return {
            **{name: state[name] for name in names},
            "embed.weight": weight.repeat(1, self.repeats, 1, 1) / self.repeats,
            "embed.bias": state["entrances.0.proj.bias"],
            "position": table[:, 1:],
        }

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """The windows without the removed patches, and these with each patch's own mean and deviation."""
        generator = torch.Generator().manual_seed(0)
        _, prediction, mask = self._predicted(windows, generator)
        target, (rows, columns) = windows.target, (n // PATCH for n in windows.target.shape[2:])
        patches = self.network.entrance_of(target).patches(target)
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        prediction = prediction * (variance + 1e-6).sqrt() + mean
        image = prediction.reshape(len(target), rows, columns, PATCH, PATCH, target.shape[1])
        image = image.permute(0, 5, 1, 3, 2, 4).reshape(target.shape)
        removed = (
            mask.reshape(-1, 1, rows, columns).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3) > 0
        )
        low = target.amin(dim=(1, 2, 3), keepdim=True)
        return MaskedWindows(target, torch.where(removed, low, target), removed), image


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
    prefixes = ("swinViT.",)
    mask_ratio, cell = 0.0, 0

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
        self.left = {name for name in state if not name.startswith(self.prefixes)}
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
        return {name: v for name, v in self.network.state_dict().items() if name not in self.left}

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """The windows with their cut-outs, and the reconstruction of the whole."""
        cut = cut_out(windows.target, torch.Generator().manual_seed(0))
        shown = MaskedWindows(windows.target, cut, torch.ones_like(windows.mask))
        return shown, self.network(cut).reconstruction


def make_task(name: str, made_for: MadeFor) -> Task:
    """The task of a name, ``"masked"``, ``"mae"`` or ``"swin"``; raises what its class does."""
    kinds: dict[str, Any] = dict(zip(TASKS, (MaskedCells, MaskedPatches, SwinTasks), strict=True))
    return kinds[name](made_for)
