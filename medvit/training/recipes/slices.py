"""Slices of volumes for two-dimensional networks, as TransUNet is trained and tested on them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform, RandomizableTransform, apply_transform
from scipy.ndimage import rotate, zoom
from torch import Tensor, nn
from torch.utils.data import Dataset

from medvit.inference import segment_slices


class SliceDataset(Dataset):
    """Every slice of some volumes as a sample of its own.

    Parameters
    ----------
    volumes
        Samples of (C, X, Y, Z); each is read once to count its slices, and then for every slice, so give a
        data set that keeps them in memory.
    transform
        From a sample of slices (C, X, Y) to what the network takes.
    keys
        What is cut; nothing else of a volume is handed on.
    axis
        The spatial axis along which slices follow each other.
    """

    def __init__(
        self,
        volumes: Sequence[Mapping[str, Any]],
        transform: Callable[[dict[str, Tensor]], Any],
        keys: Sequence[str] = ("image", "label"),
        axis: int = 2,
    ) -> None:
        self.volumes, self.transform = volumes, transform
        self.keys, self.axis = tuple(keys), axis + 1
        counts = [volumes[number][self.keys[0]].shape[self.axis] for number in range(len(volumes))]
        self.places = [(volume, number) for volume, count in enumerate(counts) for number in range(count)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        """The transformed slices at `index`, plain tensors."""
        volume, number = self.places[index]
        sample = self.volumes[volume]
        cut = {key: _plain(sample[key]).select(self.axis, number).clone() for key in self.keys}
        return apply_transform(self.transform, cut)


class TurnSliced(RandomizableTransform, MapTransform):
    """TransUNet's augmentation: with p 0.5 quarter turns and a flip, else with p 0.5 up to 20 degrees.

    Parameters
    ----------
    keys
        Slices (C, H, W), all turned alike; by whole degrees and to the nearest pixel, as published.
    """

    def __init__(self, keys: KeysCollection) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self._quarters, self._axis, self._angle = 0, 0, 0

    def randomize(self, data: Any = None) -> None:
        """Draw what is done to the next sample."""
        self._quarters, self._axis, self._angle = -1, 0, 0
        if self.R.random() < 0.5:
            self._quarters, self._axis = int(self.R.randint(4)), int(self.R.randint(2))
        elif self.R.random() < 0.5:
            self._angle = int(self.R.randint(-20, 20))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its slices turned."""
        sample = dict(data)
        self.randomize()
        for key in self.key_iterator(sample):
            if self._quarters >= 0:
                sample[key] = torch.rot90(sample[key], self._quarters, (1, 2)).flip(self._axis + 1)
            elif self._angle:
                turned = rotate(sample[key].numpy(), self._angle, axes=(1, 2), order=0, reshape=False)
                sample[key] = torch.from_numpy(turned)
        return sample


class ResizeSliced(MapTransform):
    """Slices resized by splines between their corner pixels, as TransUNet's are.

    Parameters
    ----------
    keys
        Slices (C, H, W).
    size
        Height and width.
    orders
        Order of the spline for each key: 3 for images, 0 for labels.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int], orders: Sequence[int]) -> None:
        super().__init__(keys)
        self.size, self.orders = tuple(size), tuple(orders)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its slices resized."""
        sample = dict(data)
        for key, order in self.key_iterator(sample, self.orders):
            values = sample[key].numpy()
            if values.shape[1:] != self.size:
                factors = [1.0, *(new / old for new, old in zip(self.size, values.shape[1:], strict=True))]
                sample[key] = torch.from_numpy(zoom(values, factors, order=order))
        return sample


class SliceProtocolInferer(Inferer):
    """Label maps (B, 1, X, Y, Z) of volumes by `medvit.inference.segment_slices`, for an evaluator.

    Parameters
    ----------
    img_size
        Height and width that the network takes.
    axis
        The spatial axis along which slices follow each other.
    batch_size
        Slices in one call of the network.
    """

    def __init__(self, img_size: int | Sequence[int] = 224, axis: int = 2, batch_size: int = 8) -> None:
        super().__init__()
        self.img_size, self.axis, self.batch_size = img_size, axis, batch_size

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Class numbers of a batch of volumes (B, C, X, Y, Z)."""
        options: dict[str, Any] = {"axis": self.axis, "batch_size": self.batch_size}
        volumes = _plain(inputs).cpu()
        maps = [segment_slices(network, volume, self.img_size, **options) for volume in volumes]
        return torch.stack(maps)[:, None]


def _plain(image: Any) -> Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(np.asarray(image))
