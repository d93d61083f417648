"""Pre-training of plain vision transformers by removed patches: of slices, of volumes, or of both in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvit.errors import MedvitError
from medvit.networks import MaskedAutoencoder
from medvit.networks.masked_autoencoder import Entrance, draw_mask
from medvit.networks.published import NameRule, rename
from medvit.training.encoder_file import PATCH
from medvit.training.masking import MaskedWindows
from medvit.training.network import build, fitted
from medvit.training.pretraining_choices import TASKS
from medvit.training.pretraining_tasks import (
    MadeFor,
    MaskedCells,
    SwinTasks,
    Task,
    fitting_entries,
    shared_entries,
)

SLAB, SLAB_PATCH = 12, 3  # slices of a window beside slices, and of its patches, as Uni4Eye's data have them
_DECODER: dict[str, Any] = {
    "decoder_dim": 192, "decoder_depth": 2, "decoder_num_heads": 6, "normalise_targets": True,
}  # fmt: skip
TRANSUNET_NAMES: list[NameRule] = [
    (r"^entrances\.0\.proj\.", "embed."),
    (r"^entrances\.0\.position$", "position"),
]
_UNETR_NAMES: list[NameRule] = [
    (r"^entrances\.0\.proj\.", "vit.patch_embedding.patch_embeddings."),
    (r"^entrances\.0\.position$", "vit.patch_embedding.position_embeddings"),
    (r"^(blocks|norm)\.", lambda m: f"vit.{m[0]}"),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.0\.", ".mlp.linear1."),
    (r"\.mlp\.3\.", ".mlp.linear2."),
]


@dataclass(frozen=True)
class PlainTransformer:
    """The plain vision transformer in a segmenter.

    Parameters
    ----------
    dim, depth, num_heads, mlp_dim
        Width, blocks, heads, and width of the perceptrons.
    repeats
        Channels of its first layer for each channel of the image.
    names
        Rules from the names in a `MaskedAutoencoder` to those in the segmenter.
    """

    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    repeats: int
    names: list[NameRule]

    @classmethod
    def of(cls, definition: Mapping[str, Any], network_class: str, channels: int) -> PlainTransformer:
        """That of TransUNet without ResNet, or of MONAI's UNETR.

        Raises
        ------
        MedvitError
            If the network is another one.
        """
        network: Any = None
        if network_class == "TransUNet" and definition.get("resnet_depths", ()) is None:
            network = build(definition)
            blocks, repeats, names = network.blocks, network.embed.in_channels // channels, TRANSUNET_NAMES
        elif network_class == "UNETR" and definition.get("qkv_bias"):
            network = build(definition)
            blocks, repeats, names = network.vit.blocks, 1, _UNETR_NAMES
        else:
            raise MedvitError(
                "removed patches are for a plain vision transformer: ViT, UNETR, or a bundle with one of "
                "these (TransUNet with resnet_depths null, UNETR with qkv_bias true); pre-train this "
                "network with --task masked"
            )
        dim = int(definition.get("hidden_size", 768))
        heads, hidden = int(definition.get("num_heads", 12)), int(definition.get("mlp_dim", 3072))
        return cls(dim, len(blocks), heads, hidden, repeats, names)


class MaskedPatches:
    """Most patches are removed, a plain vision transformer encodes the others, a decoder predicts the rest.

    Parameters
    ----------
    made_for
        Network, windows and masks; 75 % of the patches are removed by default, and a cell is a patch.

    Raises
    ------
    MedvitError
        If the network is not a plain vision transformer, patches do not divide the window, or none would be
        left to see.

    References
    ----------
    He et al. 2022, "Masked autoencoders are scalable vision learners", CVPR.
    """

    words = "masked patches"
    cell = PATCH
    least_slices = 1

    def __init__(self, made_for: MadeFor) -> None:
        channels, window = made_for.channels, tuple(made_for.window)
        if any(n % PATCH for n in window):
            raise MedvitError(f"patches need windows in multiples of {PATCH}: choose another --patch-size")
        definition = fitted(made_for.definition, channels, 2, window)
        vit = PlainTransformer.of(definition, made_for.network_class, channels)
        self.mask_ratio = 0.75 if made_for.mask_ratio is None else made_for.mask_ratio
        self.repeats = vit.repeats
        kinds = self._kinds(window, made_for.slice_axis)
        self.windows = tuple(edges for edges, _ in kinds)
        for edges, patch in kinds:
            tokens = math.prod(n // p for n, p in zip(edges, patch, strict=True))
            if not draw_mask(torch.empty(1, tokens), self.mask_ratio)[0].numel():
                raise MedvitError(
                    f"windows of {' x '.join(map(str, edges))} voxels have {tokens} patch(es), and a "
                    f"--mask-ratio of {self.mask_ratio:g} leaves none to see: lower it, or choose a larger "
                    "--patch-size"
                )
        if any(vit.dim % (2 * len(edges)) for edges in self.windows):
            raise MedvitError(f"--task mae and uni4eye need a hidden_size in multiples of 6, not {vit.dim}")
        width = _DECODER["decoder_dim"]
        self.network = MaskedAutoencoder(
            [Entrance(channels, edges, patch, vit.dim, width) for edges, patch in kinds], vit.dim,
            depth=vit.depth, num_heads=vit.num_heads, mlp_ratio=vit.mlp_dim / vit.dim, **_DECODER,
        )  # fmt: skip
        begun = ("blocks.", "norm.", "entrances.0.proj.", "entrances.0.position")
        own = [name for name in self.network.state_dict() if name.startswith(begun)]
        self.shared = {name: rename(name, vit.names) for name in own}
        # By their full names: UNETR has further ones, which it does not use.
        self.prefixes = tuple(self.shared.values())

    def _kinds(
        self, window: tuple[int, ...], slice_axis: int
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Edges of the windows and of their patches, those of the segmenter first."""
        return [(window, (PATCH,) * len(window))]

    def loss(self, windows: MaskedWindows, generator: torch.Generator) -> Tensor:
        """Mean squared error over the removed patches, each less its mean and by its deviation."""
        return self._predicted(windows, generator)[0]

    def _predicted(self, windows: MaskedWindows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        tokens = math.prod(self.network.entrance_of(windows.target).grid)
        noise = torch.rand(len(windows.target), tokens, generator=generator)
        return self.network(windows.target, self.mask_ratio, noise.to(windows.target.device))

    def encoder(self) -> dict[str, Tensor]:
        """Embedding, position table, blocks and norm, as the segmenter names them."""
        names = {kind: self.shared[f"entrances.0.{kind}"] for kind in ("proj.weight", "position")}
        state = shared_entries(self)
        # A slice that is repeated to several channels gives the same tokens by a share of the weights.
        weight, table = state[names["proj.weight"]], state[names["position"]]
        spread = weight.repeat(1, self.repeats, *(1,) * (weight.ndim - 2)) / self.repeats
        return {**state, names["proj.weight"]: spread, names["position"]: table[:, 1:]}

    def taken(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `encoder`: repeated channels are added up, and the class token keeps its row."""
        fits, own = fitting_entries(self, given), self.network.state_dict()
        weight, table = "entrances.0.proj.weight", "entrances.0.position"
        if (theirs := given.get(self.shared[weight])) is not None:
            added = theirs.float().unflatten(1, (self.repeats, -1)).sum(dim=1)
            fits |= {weight: added} if added.shape == own[weight].shape else {}
        if (theirs := given.get(self.shared[table])) is not None:
            whole = torch.cat([own[table][:, :1], theirs.float()], dim=1)
            fits |= {table: whole} if whole.shape == own[table].shape else {}
        return fits

    def shown(self, windows: MaskedWindows) -> tuple[MaskedWindows, Tensor]:
        """The windows without the removed patches, and these with each patch's own mean and deviation."""
        generator = torch.Generator().manual_seed(0)
        _, prediction, mask = self._predicted(windows, generator)
        target, entrance = windows.target, self.network.entrance_of(windows.target)
        variance, mean = torch.var_mean(entrance.patches(target), dim=-1, keepdim=True)
        image = entrance.image_of(prediction * (variance + 1e-6).sqrt() + mean)
        voxels = math.prod(entrance.patch_size)
        removed = entrance.image_of(mask[..., None].expand(-1, -1, voxels)) > 0
        low = target.amin(dim=tuple(range(1, target.ndim)), keepdim=True)
        return MaskedWindows(target, torch.where(removed, low, target), removed), image


class PatchesOfBoth(MaskedPatches):
    """Patches of slices and of volumes are removed in turn; both kinds train one transformer.

    Each kind has an embedding, a position table and a readout of its own. A segmenter over slices gets those
    of slices, one over volumes those of volumes.

    Parameters
    ----------
    made_for
        Network, windows of the segmenter's own kind, and masks. Beside slices of 128 x 128 pixels there are
        windows of 128 x 128 x 12 voxels in patches of 16 x 16 x 3; beside volumes there are their slices.

    References
    ----------
    Cai et al. 2022, "Uni4Eye: unified 2D and 3D self-supervised pre-training via masked image modeling
    transformer for ophthalmic image classification", MICCAI.
    """

    words = "masked patches of slices and volumes"

    def _kinds(
        self, window: tuple[int, ...], slice_axis: int
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        (own, patch), *_ = super()._kinds(window, slice_axis)
        if len(own) == 3:
            self.least_slices = PATCH
            return [(own, patch), (_without(own, slice_axis), (PATCH, PATCH))]
        self.least_slices = SLAB_PATCH
        return [(own, patch), (_with(own, slice_axis, SLAB), _with(patch, slice_axis, SLAB_PATCH))]


def _with(edges: Sequence[int], axis: int, edge: int) -> tuple[int, ...]:
    return (*edges[:axis], edge, *edges[axis:])


def _without(edges: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*edges[:axis], *edges[axis + 1 :])


def make_task(name: str, made_for: MadeFor) -> Task:
    """The task of a name, one of `TASKS`; raises what its class does."""
    kinds: dict[str, Any] = dict(
        zip(TASKS, (MaskedCells, MaskedPatches, PatchesOfBoth, SwinTasks), strict=True)
    )
    return kinds[name](made_for)
