"""`StreamingWindowInferer` for label maps, `RestorationInferer` for networks whose output is an image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import collate_meta_tensor
from torch import Tensor

from medvit.errors import StudyError
from medvit.inference.engine import Makers, Networks, WindowEngine
from medvit.inference.predict import InferenceReport, SkipRule
from medvit.inference.reduce import Activation, Argmax, Regions, Values, WideArgmax, map_reducer
from medvit.inference.windows import Volume
from medvit.studies.study import Grid
from medvit.transforms.restoration import UNIT

# Logits of voxels that only skipped windows cover: certain background.
_CERTAIN = 10.0


def is_constant(window: Tensor) -> Tensor:
    """Whether each channel of a window (C, ...) has one value throughout: padding or masked-out air."""
    flat = window.flatten(1)
    return (flat == flat[:, :1]).all()


@dataclass(frozen=True)
class Inference:
    """Results of an inference.

    Parameters
    ----------
    labels
        (X, Y, Z) label map, uint8 or uint16, in the grid that was asked for.
    maps
        Extra maps (X, Y, Z) float32 by name.
    report
        What was done.
    """

    labels: np.ndarray
    maps: dict[str, np.ndarray]
    report: InferenceReport


class StreamingWindowInferer(WindowEngine):
    """Sliding-window inference that reduces each slab to labels as soon as all its windows are in.

    Windows, weights and labels are those of `monai.inferers.SlidingWindowInferer` followed by an argmax,
    but the only class-sized buffer is one window deep: 4 x classes x (roi depth + 1) x in-plane voxels
    bytes. With a target grid (`segment`) logits are interpolated linearly to the voxels of the study and
    reduced there, block by block.

    Parameters
    ----------
    region_labels, region_order
        For networks with overlapping sigmoid regions: see `medvit.inference.reduce.Regions`. ``None`` for
        classes that exclude each other (argmax).
    maps
        Extra maps: ``"entropy"``, ``"disagreement"`` (of networks and flips) and ``"probability:CLASS"``.
    grid
        Result of a call of the inferer: labels in the ``"input"``'s grid, or in that of the ``"source"``
        file, as MONAI's ``LoadImage`` notes it in the image's meta data.
    skip
        ``"constant"`` skips windows in which every channel is constant, and labels what only such windows
        cover as background; or a rule from a window (C, *roi_size) to a bool. Off by default: a network
        whose answer to such a window is not known to be background must see it.
    options
        Windows, blending, padding, flips, streaming axis and execution: see `WindowEngine`.

    Examples
    --------
    >>> inferer = StreamingWindowInferer(roi_size=(16, 16, 16), overlap=0.5)
    >>> threshold = lambda windows: torch.cat([0.5 - windows, windows - 0.5], dim=1)
    >>> inferer(torch.ones(1, 1, 20, 24, 32), threshold).unique()
    tensor([1], dtype=torch.uint8)
    """

    def __init__(
        self,
        roi_size: Sequence[int | None] | int,
        overlap: Sequence[float] | float = 0.5,
        sw_batch_size: int = 1,
        *,
        region_labels: Sequence[int] | None = None,
        region_order: Sequence[int] | None = None,
        maps: Sequence[str] = (),
        grid: Literal["input", "source"] = "input",
        skip: Literal["constant"] | SkipRule | None = None,
        **options: Any,
    ) -> None:
        rule = is_constant if skip == "constant" else skip
        super().__init__(roi_size, overlap, sw_batch_size, skip=rule, **options)
        if grid not in ("input", "source"):
            raise ValueError(f"grid must be 'input' or 'source', not {grid!r}")
        activation: Activation = "softmax" if region_labels is None else "sigmoid"
        self.regions = None if region_labels is None else partial(Regions, region_labels, region_order)
        if self.regions is not None:
            self.regions()
        self.maps = {name: map_reducer(name, activation) for name in maps}
        self.grid = grid

    def __call__(self, inputs: Tensor, network: Networks, *args: Any, **kwargs: Any) -> Any:
        """Label maps of a batch.

        Parameters
        ----------
        inputs
            (B, C, X, Y[, Z]).
        network
            The network, or several (a sequence or `torch.nn.ModuleList`) whose logits are averaged.
        args, kwargs
            Further arguments of the network.

        Returns
        -------
        Tensor or dict
            (B, 1, X, Y[, Z]) labels, a MetaTensor if `inputs` is one; with `maps`, a dict that holds
            ``"labels"`` and each map.
        """
        cases = []
        for image in inputs:
            target = None if self.grid == "input" else source_grid(image)
            results = self.run(image, network, target, args, kwargs)
            cases.append({name: _like(result, image, self.grid) for name, result in results.items()})
        batch = {name: _collate([case[name] for case in cases]) for name in cases[0]}
        return batch if self.maps else batch["labels"]

    def segment(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Label map of one image in the grid of its study; see `infer`."""
        return self.infer(image, network, target, out=out).labels

    def infer(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None = None,
        *args: Any,
        out: np.ndarray | None = None,
        **kwargs: Any,
    ) -> Inference:
        """Label map, extra maps and report of one image.

        Parameters
        ----------
        image
            (C, X, Y[, Z]) preprocessed; its affine says where its voxels lie, in RAS+ mm.
        network
            The network, or several whose logits are averaged.
        target
            Grid to which the results go: each voxel takes the logits interpolated linearly at its centre.
            What lies outside the image is background. ``None`` for the image's own grid.
        out
            Array of the target's shape that takes the labels, such as a `numpy.memmap`.

        Raises
        ------
        StudyError
            If the image is not finite, or has no affine though a target is given.
        MedvitError
            If the network answers with NaN, or one window does not fit into memory.
        """
        found = self.run(image, network, target, args, kwargs, out)
        results = {name: as_array(result) for name, result in found.items()}
        return Inference(results.pop("labels"), results, self.report)

    def makers(self, channels: int) -> Makers:
        """Makers of the labels and of the extra maps that were asked for."""
        argmax = Argmax if channels <= 256 else WideArgmax
        return {"labels": self.regions or argmax, **self.maps}

    def background(self, channels: int) -> Tensor:
        """Logits of certain background."""
        logits = torch.full((channels,), -_CERTAIN)
        if self.regions is None:
            logits[0] = _CERTAIN
        return logits


def source_grid(image: Tensor) -> Grid:
    """The grid of the file that an image was loaded from, as MONAI's ``LoadImage`` notes it.

    Raises
    ------
    StudyError
        If the image does not state the grid of its file.
    """
    meta = image.meta if isinstance(image, MetaTensor) else {}
    if "original_affine" not in meta or "spatial_shape" not in meta:
        raise StudyError(
            "image-without-source",
            "the image does not state the grid of its file, so labels cannot be returned to it",
            path=meta.get("filename_or_obj"),
            do="load it with LoadImaged, or use grid='input'",
        )
    x, y, z = (int(n) for n in [*torch.as_tensor(meta["spatial_shape"]).tolist(), 1][:3])
    return Grid((x, y, z), np.asarray(meta["original_affine"], np.float64))


def as_array(result: Tensor | np.ndarray) -> np.ndarray:
    """A result on the host."""
    return result.cpu().numpy() if isinstance(result, Tensor) else result


def _like(result: Tensor | np.ndarray, image: Tensor, grid: str) -> Tensor:
    """A map (X, Y[, Z]) as a channel-first tensor with the meta data of its image."""
    tensor = torch.as_tensor(result)[None].to(image.device)
    if not isinstance(image, MetaTensor):
        return tensor
    if grid == "input":
        return MetaTensor(tensor, meta=image.meta, applied_operations=image.applied_operations)
    affine = torch.as_tensor(np.asarray(image.meta["original_affine"], np.float64))
    return MetaTensor(tensor, meta={**image.meta, "affine": affine})


def _collate(items: Sequence[Tensor]) -> Tensor:
    return collate_meta_tensor(items) if isinstance(items[0], MetaTensor) else torch.stack(list(items))


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
        if self.region is not None:
            raise ValueError("a restored image has no background, so a region cannot stand for the whole")
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
            restored = torch.as_tensor(values).to(image.device)
            return MetaTensor(restored).copy_meta_from(image) if isinstance(image, MetaTensor) else restored
        target = source_grid(image)
        assert isinstance(image, MetaTensor), "only such an image states the grid of its file"
        unit = float(image.meta.get(UNIT, 1.0))
        values = self.run(image, network, target, args, kwargs)["image"]
        meta = {**image.meta, "affine": torch.as_tensor(target.affine)}
        return MetaTensor(torch.as_tensor(values).mul(unit).to(image.device), meta=meta)

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
            Grid to which the result goes, by linear interpolation; 0 outside the image. ``None`` for the
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
        return as_array(restored)

    def makers(self, channels: int) -> Makers:
        """Maker of the restored image."""
        return {"image": partial(Values, self.to_units)}

    def background(self, channels: int) -> Tensor:
        """Zeros."""
        return torch.zeros(channels)
