"""The region map of an image as its last channel, so that windows cut both alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd
from torch import Tensor

from medvit.errors import StudyError
from medvit.transforms.load_study import LoadStudyd
from medvit.transforms.regions import felzenszwalb_regions
from medvit.transforms.restoration import ScaleToUnitd

# Pixels along the shorter edge: one window of RAT at its coarsest level.
_NARROWEST = 16


def add_region_channel(image: Tensor, window: tuple[float, float]) -> Tensor:
    """An image with the Felzenszwalb regions of each of its slices as another channel.

    Parameters
    ----------
    image
        (1, X, Y) or (1, X, Y, Z), finite; slices follow each other along the last axis.
    window
        Intensities between which tissues are distinguished, such as a soft-tissue window in HU.

    Returns
    -------
    Tensor
        (2, ...) float32: the image, and the number of each voxel's region in its slice.

    Raises
    ------
    ValueError
        If the image has another shape or holds values that are not finite.
    """
    if image.ndim not in (3, 4) or image.shape[0] != 1:
        raise ValueError(f"regions need an image (1, X, Y) or (1, X, Y, Z), not {tuple(image.shape)}")
    values = torch.as_tensor(image).detach().cpu().float()
    grey = values[0].clamp(*window).numpy()
    slices = grey.reshape(*grey.shape[:2], -1)
    regions = np.stack([felzenszwalb_regions(s[None]) for s in np.moveaxis(slices, -1, 0)], axis=-1)
    return torch.stack([values[0], torch.from_numpy(regions.reshape(grey.shape)).float()])


class RegionChanneld(MapTransform):
    """Append the regions of each axial slice to images (1, X, Y[, Z]): see `add_region_channel`.

    Parameters
    ----------
    keys
        Images.
    window
        Intensities between which tissues are told apart.

    Raises
    ------
    StudyError
        If an axial slice is too narrow for a network, such as that of a single coronal slice.
    """

    def __init__(self, keys: KeysCollection, window: tuple[float, float]) -> None:
        super().__init__(keys)
        self.window = (float(window[0]), float(window[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with images (2, ...).

        Raises
        ------
        StudyError
            If an axial slice is too narrow.
        """
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            if min(image.shape[1:3]) < _NARROWEST:
                raise StudyError(
                    "narrow-slices",
                    f"its axial slices of {image.shape[1]} x {image.shape[2]} voxels are too narrow",
                    path=image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None,
                    do="give axial slices",
                )
            stacked = add_region_channel(image, self.window)
            if isinstance(image, MetaTensor):
                stacked = MetaTensor(stacked).copy_meta_from(image)
            sample[key] = stacked
        return sample


def prepare_axial_slices(
    keys: str, limits: Sequence[float], window: Sequence[float] | None, unit: float | None = None
) -> Compose:
    """Transforms from a study to the input of a network that restores axial slices.

    Parameters
    ----------
    keys
        Key of the study, and then of its image (2, X, Y, Z) in RAS order: intensities and regions; (1, X, Y,
        Z) without regions.
    limits, unit
        As `ScaleToUnitd` takes them.
    window
        Intensities between which tissues are told apart; in units where each image has its own. ``None`` for
        networks that take no regions.
    """
    steps: list[Any] = [
        LoadStudyd(keys),
        Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        ScaleToUnitd(keys, limits, unit),
    ]
    if window is not None:
        scale = unit or 1.0
        steps.append(RegionChanneld(keys, (window[0] / scale, window[1] / scale)))
    return Compose(steps)
