"""Swin UNETR's self-supervised pre-training: rotation, contrast and reconstruction on one encoder.

References
----------
Tang et al. 2022, "Self-supervised pre-training of Swin transformers for 3D medical image analysis", CVPR,
arXiv 2111.14791.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from medvit.networks.published import PublishedNetwork, StateDict
from medvit.networks.swin_unetr import PATCH_MERGING, PatchMergingName

_CONTRAST = 512


class SwinViews(NamedTuple):
    """The predictions of the heads for a view.

    Parameters
    ----------
    rotation
        Logits of the four turns, (B, 4).
    contrast
        Vector that two views of one window share, (B, 512).
    reconstruction
        The window without its cut-outs, (B, C, *size).
    """

    rotation: Tensor
    contrast: Tensor
    reconstruction: Tensor


class SwinPretrainer(PublishedNetwork):
    """The encoder of Swin UNETR with three heads on its deepest map.

    Parameters
    ----------
    in_channels
        Channels of the image.
    feature_size, depths, num_heads, window_size, patch_merging
        Settings of the encoder, as in `SwinUNETR`, whose `load_encoder` takes the trained weights.

    Notes
    -----
    Rotation and contrast are read off the first two tokens of the deepest map, so a window has at least two
    of them: 64 voxels along one axis.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_merging: PatchMergingName = "current",
    ) -> None:
        super().__init__()
        self.swinViT = SwinTransformer(
            in_chans=in_channels,
            embed_dim=feature_size,
            window_size=(window_size,) * 3,
            patch_size=(2, 2, 2),
            depths=depths,
            num_heads=num_heads,
            downsample=PATCH_MERGING[patch_merging],
            spatial_dims=3,
        )
        dim = 16 * feature_size
        self.rotation_head = nn.Linear(dim, 4)
        self.contrastive_head = nn.Linear(dim, _CONTRAST)
        widths = [dim, dim // 2, dim // 4, dim // 8, dim // 16, dim // 16]
        layers: list[nn.Module] = []
        for width, narrower in itertools.pairwise(widths):
            layers += [
                nn.Conv3d(width, narrower, 3, padding=1),
                nn.InstanceNorm3d(narrower),
                nn.LeakyReLU(),
                nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False),
            ]
        self.conv = nn.Sequential(*layers, nn.Conv3d(widths[-1], in_channels, 1))

    def forward(self, x: Tensor) -> SwinViews:
        """Window (B, C, *size) with edges in multiples of 32, one of them 64 or more."""
        deepest = self.swinViT(x.contiguous())[4]
        tokens = deepest.flatten(2).transpose(1, 2)
        return SwinViews(
            self.rotation_head(tokens[:, 0]), self.contrastive_head(tokens[:, 1]), self.conv(deepest)
        )

    def _own_entries(self, published: StateDict) -> StateDict:
        # The position indices never vary.
        own = {name: value for name, value in self.state_dict().items() if name.endswith("position_index")}
        renamed = {
            name.replace("swin_vit.", "swinViT.").replace(".mlp.fc", ".mlp.linear"): value
            for name, value in published.items()
        }
        return own | renamed


def turn(windows: Tensor, turns: Tensor) -> Tensor:
    """Windows (B, C, D, H, W), D and H equal, each after its own number of quarter turns in that plane."""
    return torch.stack([torch.rot90(one, int(k), (1, 2)) for one, k in zip(windows, turns, strict=True)])


def cut_out(windows: Tensor, generator: torch.Generator | None = None, *, most: float = 0.3) -> Tensor:
    """A copy of the windows with blocks replaced, first by noise, then by another window's content.

    Parameters
    ----------
    windows
        (B, C, *size).
    generator
        Source of the random numbers, on the CPU.
    most
        Largest share of a window that is replaced in each of the two rounds; the share is drawn up to it.
    """
    result = windows.clone()
    for number, window in enumerate(result):
        for other in (None, int(torch.randint(len(windows), (), generator=generator))):
            if other != number:
                _replace(window, None if other is None else windows[other], most, generator)
    return result


def _replace(window: Tensor, content: Tensor | None, most: float, generator: torch.Generator | None) -> None:
    """Replace blocks of `window` in place until the drawn share is reached."""
    size = window.shape[1:]
    wanted = float(torch.rand((), generator=generator)) * most * size.numel()
    done = 0
    while done < wanted:
        edges = [int(torch.randint(max(n // 20, 1), max(n // 4, 2), (), generator=generator)) for n in size]
        starts = [
            int(torch.randint(n - edge + 1, (), generator=generator))
            for n, edge in zip(size, edges, strict=True)
        ]
        block = tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))
        index = (slice(None), *block)
        if content is None:
            noise = torch.randn(window.shape[0], *edges, generator=generator)
            noise = (noise - noise.min()) / (noise.max() - noise.min()).clamp(min=1e-6)
            window[index] = noise.to(window)
        else:
            window[index] = content[index]
        done += torch.Size(edges).numel()
