"""Masked windows: input and target of self-supervised pre-training on unlabelled studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Voxels that equal the corner's value over a whole cell lie outside the field of view, or in air
# without information.
_FLAT = 1e-4


@dataclass(frozen=True)
class MaskedWindows:
    """A batch of windows.

    Parameters
    ----------
    target
        The windows as they are, (B, C, *window).
    masked
        The same with masked cells filled.
    mask
        Voxels where the prediction counts, (B, 1, *window): in masked cells inside the field of view.
    """

    target: Tensor
    masked: Tensor
    mask: Tensor


class WindowSampler:
    """Draws windows from prepared volumes and masks cells of them.

    Parameters
    ----------
    volumes
        (C, X, Y, Z) each, of any size; a smaller one is padded, and its padding never counts.
    window
        Edges in voxels: three, or two for slices across `slice_axis`.
    cell
        Edge of the masked cells in voxels.
    mask_ratio
        Share of the cells that are masked.
    slice_axis
        Axis across the slices.
    seed
        Seed of all random numbers; the windows of step n depend only on it and on n.
    """

    def __init__(
        self,
        volumes: Sequence[Tensor],
        window: Sequence[int],
        *,
        cell: int = 8,
        mask_ratio: float = 0.6,
        slice_axis: int = 2,
        seed: int = 0,
    ) -> None:
        self.volumes, self.cell, self.mask_ratio, self.seed = volumes, cell, mask_ratio, seed
        self.slice_axis = slice_axis if len(window) == 2 else None
        edges = list(window)
        if self.slice_axis is not None:
            edges.insert(self.slice_axis, 1)
        self.edges = edges

    def batch(self, step: int, size: int) -> MaskedWindows:
        """The windows of a step, always the same ones for the same step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        drawn = [self._window(generator) for _ in range(size)]
        target = torch.stack([window for window, _ in drawn])
        inside = torch.stack([seen for _, seen in drawn])
        cells = self._cells(target, generator)
        noise = torch.randn(target.shape, generator=generator)
        # Noise with the spread of the window: a constant alone would distinguish masked cells from dark ones.
        axes = tuple(range(1, target.ndim))
        spread, centre = torch.std_mean(target.float(), dim=axes, keepdim=True)
        filled = torch.where(cells, centre + spread * noise, target)
        return MaskedWindows(target, filled, cells & inside)

    def _window(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        volume = self.volumes[int(torch.randint(len(self.volumes), (), generator=generator))].float()
        start = []
        for size, edge in zip(volume.shape[1:], self.edges, strict=True):
            room = max(size - edge, 0) + 1
            start.append(int(torch.randint(room, (), generator=generator)))
        cut = tuple(slice(s, s + edge) for s, edge in zip(start, self.edges, strict=True))
        window = volume[(slice(None), *cut)]
        inside = _says_something(window, self.cell)
        lack = [edge - n for edge, n in zip(self.edges, window.shape[1:], strict=True)]
        pads = [n for missing in reversed(lack) for n in (missing // 2, missing - missing // 2)]
        window, inside = F.pad(window, pads), F.pad(inside, pads)
        if self.slice_axis is not None:
            window, inside = (x.squeeze(self.slice_axis + 1) for x in (window, inside))
        for axis in range(1, window.ndim):
            if torch.rand((), generator=generator) < 0.5:
                window, inside = window.flip(axis), inside.flip(axis)
        return window, inside

    def _cells(self, target: Tensor, generator: torch.Generator) -> Tensor:
        size = target.shape[2:]
        coarse = [-(-n // self.cell) for n in size]
        numbers = torch.rand(len(target), torch.Size(coarse).numel(), generator=generator)
        ranks = numbers.argsort(1).argsort(1)
        chosen = (ranks < round(self.mask_ratio * ranks.shape[1])).reshape(len(target), 1, *coarse)
        for axis in range(len(size)):
            chosen = chosen.repeat_interleave(self.cell, dim=axis + 2)
        inside: tuple[slice, ...] = tuple(slice(n) for n in size)
        return chosen[(slice(None), slice(None), *inside)]


def _says_something(window: Tensor, cell: int) -> Tensor:
    """Where cells are not constant, (1, X, Y, Z), as in padding, clipped air or stripped parts."""
    sizes = [min(cell, n) for n in window.shape[1:]]
    high = F.max_pool3d(window[None], sizes, sizes, ceil_mode=True)
    low = -F.max_pool3d(-window[None], sizes, sizes, ceil_mode=True)
    lively = ((high - low).amax(dim=1) > _FLAT)[0]
    for axis, size in enumerate(sizes):
        lively = lively.repeat_interleave(size, dim=axis)
    return lively[tuple(slice(n) for n in window.shape[1:])][None]


def masked_l1(prediction: Tensor, windows: MaskedWindows) -> Tensor:
    """Mean absolute error within the mask; 0 if a batch has nothing to predict."""
    mask = windows.mask.to(prediction.dtype)
    error = (prediction - windows.target).abs().mean(dim=1, keepdim=True)
    return (error * mask).sum() / mask.sum().clamp(min=1)
