"""`RestorationInferer`: networks whose output is an image, back in the study's grid and intensity units."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.data.study import Grid
from medvit.inferers.engine import Makers, Networks, WindowEngine
from medvit.inferers.reduce import Values
from medvit.inferers.volume import Volume


class RestorationInferer(WindowEngine):
    """Sliding windows whose overlapping outputs are averaged, for denoising, artefact removal and synthesis.

    Windows, blending, padding, flips, streaming axis and execution are those of `WindowEngine`. Beside the
    restored image itself, memory is one window deep.

    Examples
    --------
    >>> inferer = RestorationInferer(roi_size=(16, 16, 16), overlap=0.5)
    >>> inferer(torch.ones(1, 1, 20, 24, 32), lambda windows: 2 * windows).unique()
    tensor([2.])
    """

    to_units: Callable[[Tensor], Tensor] | None = None

    def __call__(self, inputs: Tensor, network: Networks, *args: Any, **kwargs: Any) -> Tensor:
        """Restored images (B, C', X, Y[, Z]) float32 of a batch (B, C, X, Y[, Z]), in the network's units."""
        restored = [self.run(image, network, None, args, kwargs)["image"] for image in inputs]
        batch = torch.from_numpy(np.stack(restored)).to(inputs.device)
        return MetaTensor(batch).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else batch

    def restore(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None = None,
        *,
        to_units: Callable[[Tensor], Tensor] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """One restored image in the grid and the units of its study.

        Parameters
        ----------
        image
            (C, X, Y[, Z]) preprocessed; its affine says where its voxels lie, in RAS+ mm.
        network
            The network, or several whose outputs are averaged.
        target
            Grid to which the result goes, by linear interpolation; 0 outside of the image. ``None`` for the
            image's own grid.
        to_units
            From the network's output to the study's intensities: the inverse of the scaling that the image
            went through, voxel by voxel.
        out
            Float array (C', *target shape) that takes the result, such as a `numpy.memmap`.

        Returns
        -------
        numpy.ndarray
            (C', *target shape) float32.
        """
        in_units = copy.copy(self)
        in_units.to_units = to_units
        restored = in_units.run(image, network, target, out=out)["image"]
        self.report = in_units.report
        return restored

    def makers(self, channels: int) -> Makers:
        """The image."""
        return {"image": partial(Values, self.to_units)}

    def background(self, channels: int) -> Tensor:
        """Zeros."""
        return torch.zeros(channels)
