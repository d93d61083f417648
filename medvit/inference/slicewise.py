"""A volume segmented slice by slice by a two-dimensional network, under TransUNet's evaluation protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor, nn


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
    ParaTransCNN rest on this; the sliding window is the better choice otherwise. Slices do not see each
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
        If the volume has other axes, or `axis` is none of them.

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
