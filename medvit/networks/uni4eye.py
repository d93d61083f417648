"""Uni4Eye++: one masked autoencoder for images and volumes, with a dynamic head (Cai et al. 2024, TMI)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.vit import BLOCK_NAMES
from medvit.networks.masked_autoencoder import Entrance, MaskedAutoencoder, MaskedPrediction
from medvit.networks.published import NameRule, StateDict, renamed

TASKS = 7


class Uni4Eye(MaskedAutoencoder):
    """A masked autoencoder with two entrances, whose predictions are mixed by a matrix made for each image.

    To train one encoder on slices and volumes, use `MaskedAutoencoder` with two entrances: the dynamic head
    is bound to the number of tokens and does not help the encoder. This class is for the published weights.

    Parameters
    ----------
    in_channels
        Channels of images; volumes have one.
    img_size, volume_size
        Size of images and of volumes, in pixels; both give equally many tokens. Without a size, there is no
        entrance for volumes.
    patch_size, volume_patch_size
        Size of their patches.
    mixed_loss
        Whether the loss is computed after the dynamic head. It is not in the authors' variant for images with
        masks guided by entropy, whose `noise` is a random number times the entropy of each patch.
    sizes
        The same parameters as in `MaskedAutoencoder`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        img_size: Sequence[int] = (224, 224),
        patch_size: Sequence[int] = (16, 16),
        volume_size: Sequence[int] | None = (112, 12, 112),
        volume_patch_size: Sequence[int] = (16, 3, 16),
        dim: int = 1024,
        decoder_dim: int = 512,
        mixed_loss: bool = True,
        **sizes: Any,
    ) -> None:
        entrances = [Entrance(in_channels, img_size, patch_size, dim, decoder_dim)]
        if volume_size is not None:
            entrances.append(Entrance(1, volume_size, volume_patch_size, dim, decoder_dim, positions=False))
        super().__init__(entrances, dim, decoder_dim=decoder_dim, **sizes)
        self.mixed_loss = mixed_loss
        tokens = math.prod(entrances[0].grid)
        if math.prod(entrances[-1].grid) != tokens:
            raise ValueError(
                "images and volumes must give equally many tokens: the dynamic head is bound to them"
            )
        self.controller = nn.Conv1d(tokens + 1 + TASKS, tokens**2 + tokens, 1)

    def forward(  # type: ignore[override]
        self, image: Tensor, task: Tensor, mask_ratio: float = 0.5, noise: Tensor | None = None
    ) -> tuple[MaskedPrediction, Tensor]:
        """Mask, encode, decode, mix and compare.

        Parameters
        ----------
        image
            (B, C, *size).
        task
            Task number of each image, (B,), for the dynamic head.
        mask_ratio, noise
            The same parameters as in `MaskedAutoencoder`.

        Returns
        -------
        prediction
            Result before the dynamic head; its loss is computed after the head, unless `mixed_loss` is off.
        mixed
            Prediction after the dynamic head, (B, tokens, voxels of a patch * channels).
        """
        entrance = self.entrance_of(image)
        x, mask = self._decoder_input(image, entrance, mask_ratio, noise)
        x = F.relu(x)  # in place in the published code, so the decoder sees it as well
        told = torch.cat([x.mean(dim=2), F.one_hot(task, TASKS).to(x.dtype)], dim=1)
        made = self.controller(told[..., None])[..., 0]
        tokens = mask.shape[1]
        weight, bias = made[:, : tokens**2].unflatten(1, (tokens, tokens)), made[:, tokens**2 :, None]
        prediction = self._decoded(x, entrance)
        mixed = weight @ prediction + bias
        scored = mixed if self.mixed_loss else prediction
        return MaskedPrediction(self._loss(image, scored, mask, entrance), prediction, mask), mixed

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, _UNI4EYE_NAMES)

    def _unused_entries(self, published: StateDict) -> tuple[str, ...]:
        return tuple(name for name in published if name.startswith("mlp."))


def _kind(match: re.Match[str]) -> int:
    return int(match[1] or 2) - 2


_UNI4EYE_NAMES: list[NameRule] = [
    *BLOCK_NAMES,
    # The variants for images alone have no number after these names.
    (r"^patch_embed\.proj([23]?)\.", lambda m: f"entrances.{_kind(m)}.proj."),
    (r"^pos_embed([23]?)$", lambda m: f"entrances.{_kind(m)}.position"),
    (r"^decoder_pos_embed([23]?)$", lambda m: f"entrances.{_kind(m)}.decoder_position"),
    (r"^decoder_pred([23]?)\.", lambda m: f"entrances.{_kind(m)}.readout."),
]
