"""Two-dimensional networks over volumes, slices in batches along any axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.inference.engine import Networks, WindowEngine, members
from medvit.inference.inferer import RestorationInferer, StreamingWindowInferer
from medvit.inference.windows import Volume, WindowPlan, plan_windows, window_weights


def slice_axis(plane: str, planes: Sequence[str] = ("sagittal", "coronal", "axial")) -> int:
    """The axis of a RAS image along which slices of a plane follow each other.

    Parameters
    ----------
    plane
        Its name.
    planes
        Planes for which the network was trained.

    Raises
    ------
    MedvitError
        If `plane` is not one of `planes`.
    """
    if plane not in planes:
        raise MedvitError(f"this network takes {' or '.join(planes)} slices, not {plane!r}: set --plane")
    return {"sagittal": 0, "coronal": 1, "axial": 2}[plane]


class SliceNetwork(nn.Module):
    """Adapts a two-dimensional network to slabs of slices.

    Parameters
    ----------
    network
        (B, C, H, W) to (B, classes, H, W).
    axis
        The spatial axis along which slices follow each other.
    """

    def __init__(self, network: Any, axis: int) -> None:
        super().__init__()
        self.network, self.axis = network, axis

    def forward(self, windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, C, X, Y, Z) to (B, classes, X, Y, Z), each slice by itself."""
        slices = windows.movedim(self.axis + 2, 1)
        logits = self.network(slices.flatten(0, 1), *args, **kwargs)
        logits = logits[0] if isinstance(logits, list | tuple) else logits
        return logits.unflatten(0, slices.shape[:2]).movedim(1, self.axis + 2)


class SliceWindows(WindowEngine):
    """Windows for a two-dimensional network over a volume; a subclass also chooses what its output becomes.

    Parameters
    ----------
    roi_size
        Voxels of a window in the two axes of a slice; ``None`` stands for the whole axis.
    overlap
        Share of a window that the next one in the slice covers again.
    slices
        Slices that go through the network at once.
    slice_axis
        The spatial axis along which slices follow each other: 2 for axial slices of a RAS image.
    options
        Same as for the inferer of volumes.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None],
        overlap: Sequence[float] | float = 0.5,
        slices: int = 8,
        *,
        slice_axis: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(roi_size, overlap, **options)
        if len(roi_size) != 2 or slice_axis not in (0, 1, 2):
            raise ValueError("slices need a roi_size of two values and a slice_axis of 0, 1 or 2")
        self.slices, self.slice_axis = slices, slice_axis

    def plan(self, size: Sequence[int]) -> WindowPlan:
        """Windows a few slices deep, which do not overlap along the slice axis."""
        overlap = [self.overlap] * 2 if isinstance(self.overlap, int | float) else list(self.overlap)
        roi = list(self.roi_size) if isinstance(self.roi_size, Sequence) else [self.roi_size] * 2
        roi.insert(self.slice_axis, min(self.slices, size[self.slice_axis]))
        overlap.insert(self.slice_axis, 0.0)
        return plan_windows(size, roi, overlap, self.slice_axis)

    def weights(self, plan: WindowPlan) -> Tensor:
        """Blend weights of a slice, the same for all slices of a window."""
        in_plane = [n for a, n in enumerate(plan.roi_size) if a != self.slice_axis]
        weights = window_weights(in_plane, self.mode, self.sigma_scale)
        return weights.unsqueeze(self.slice_axis).expand(plan.roi_size)

    def run(self, image: Tensor | Volume, network: Networks, *args: Any, **kwargs: Any) -> Any:
        """As `WindowEngine.run`, with networks of (B, C, H, W)."""
        sliced = [SliceNetwork(member, self.slice_axis) for member in members(network)]
        return super().run(image, sliced, *args, **kwargs)


class SliceInferer(SliceWindows, StreamingWindowInferer):
    """A label map of a volume by a two-dimensional network; parameters are those of `SliceWindows`."""


class SliceRestorer(SliceWindows, RestorationInferer):
    """A restored volume by a two-dimensional network; parameters are those of `SliceWindows`."""


@torch.inference_mode()
def segment_slices(
    network: nn.Module,
    volume: Tensor | np.ndarray,
    img_size: int | Sequence[int] = 224,
    *,
    axis: int = 0,
    batch_size: int = 8,
) -> Tensor:
    """Label map of a volume whose slices are resized, segmented, and resized back as labels.

    A slice is resized by a cubic spline between corners, which may overshoot the image's range; the winning
    class of every pixel is resized back by the nearest neighbour. Published tables of TransUNet and
    ParaTransCNN rest on this; the sliding window is the better choice otherwise. Slices do not influence each
    other, so batches of them give what single ones give.

    Parameters
    ----------
    network
        Takes (B, C, *img_size), gives logits (B, classes, *img_size). It is put into eval mode and left in
        the mode it was found in.
    volume
        Intensities (X, Y, Z), or with channels (C, X, Y, Z), as the network was trained on: for Synapse
        Hounsfield units clipped to [-125, 275] and scaled to [0, 1].
    img_size
        Height and width that the network takes.
    axis
        Which spatial axis the slices are stacked along.
    batch_size
        Slices in one call of the network.

    Returns
    -------
    Tensor
        Class numbers (X, Y, Z), uint8 for up to 256 classes, else int64.

    Raises
    ------
    ValueError
        If the volume has other axes, or `axis` is not one of them.

    References
    ----------
    Chen et al.: TransUNet, 2021, arXiv 2102.04306 (the authors' evaluation of the Synapse volumes).
    """
    image = np.asarray(volume, dtype=np.float32)
    if image.ndim not in (3, 4):
        raise ValueError(f"a volume has axes (X, Y, Z) or (C, X, Y, Z), not the shape {image.shape}")
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, not {axis}")
    image = image.reshape(-1, *image.shape[-3:])
    slices = np.moveaxis(image, axis + 1, 0)
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    parameter = next(network.parameters())
    was_training = network.training
    network.eval()
    try:
        labels = []
        for start in range(0, len(slices), batch_size):
            batch = np.stack([_resize(part, size, order=3) for part in slices[start : start + batch_size]])
            logits = network(torch.from_numpy(batch).to(parameter))
            winners = logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int64)
            labels += [_resize(part, slices.shape[2:], order=0) for part in winners.cpu().numpy()]
    finally:
        network.train(was_training)
    return torch.from_numpy(np.moveaxis(np.stack(labels), 0, axis).copy())


def _resize(image: np.ndarray, size: Sequence[int], order: int) -> np.ndarray:
    """The last two axes resized to `size`, each channel by itself; an equal size is left as it is."""
    if image.shape[-2:] == tuple(size):
        return image
    if image.ndim == 3:
        return np.stack([_resize(channel, size, order) for channel in image])
    return zoom(image, [new / old for new, old in zip(size, image.shape, strict=True)], order=order)
