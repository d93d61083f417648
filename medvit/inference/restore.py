"""`RestorationInferer`: networks whose output is an image, back in the study's grid and intensity units."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import collate_meta_tensor
from torch import Tensor

from medvit.inference.engine import Makers, Networks, WindowEngine
from medvit.inference.reduce import Values
from medvit.inference.streaming import source_grid
from medvit.inference.volume import Volume
from medvit.studies.study import Grid
from medvit.transforms.restoration import UNIT


class RestorationInferer(WindowEngine):
    """Sliding windows whose overlapping outputs are averaged, for denoising, artefact removal and synthesis.

    Windows, blending, padding, flips, streaming axis and execution are those of `WindowEngine`. Beside the
    restored image itself, memory is one window deep.

    Parameters
    ----------
    grid
        What a call of the inferer gives: images in the ``"input"``'s grid and the network's units, or in the
        grid of the ``"source"`` file and in its intensities, where the input's meta data state the unit (see
        `medvit.transforms.ScaleToUnitd`).
    args, options
        Windows, blending, padding, flips, streaming axis and execution: see `WindowEngine`.

    Examples
    --------
    >>> inferer = RestorationInferer(roi_size=(16, 16, 16), overlap=0.5)
    >>> inferer(torch.ones(1, 1, 20, 24, 32), lambda windows: 2 * windows).unique()
    tensor([2.])
    """

    to_units: Callable[[Tensor], Tensor] | None = None

    def __init__(self, *args: Any, grid: Literal["input", "source"] = "input", **options: Any) -> None:
        super().__init__(*args, **options)
        if grid not in ("input", "source"):
            raise ValueError(f"grid must be 'input' or 'source', not {grid!r}")
        self.grid = grid

    def __call__(self, inputs: Tensor, network: Networks, *args: Any, **kwargs: Any) -> Tensor:
        """Restored images (B, C', X, Y[, Z]) float32 of a batch (B, C, X, Y[, Z])."""
        restored = [self._call(image, network, args, kwargs) for image in inputs]
        return collate_meta_tensor(restored) if isinstance(inputs, MetaTensor) else torch.stack(restored)

    def _call(self, image: Tensor, network: Networks, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        if self.grid == "input":
            values = self.run(image, network, None, args, kwargs)["image"]
            restored = torch.from_numpy(values).to(image.device)
            return MetaTensor(restored).copy_meta_from(image) if isinstance(image, MetaTensor) else restored
        target = source_grid(image)
        assert isinstance(image, MetaTensor), "only such an image knows the grid of its file"
        unit = float(image.meta.get(UNIT, 1.0))
        values = self.run(image, network, target, args, kwargs)["image"]
        meta = {**image.meta, "affine": torch.as_tensor(target.affine)}
        return MetaTensor(torch.from_numpy(values * np.float32(unit)).to(image.device), meta=meta)

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
