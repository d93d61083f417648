"""`CutOutInferer`: segmentation of small structures, each in a cut-out that another network locates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.errors import StudyError
from medvit.inference.engine import Networks
from medvit.inference.inferer import StreamingWindowInferer, as_array
from medvit.inference.windows import Volume
from medvit.studies.study import Grid

# From an image (C, X, Y, Z) to the places in RAS+ mm (N, 3) of the voxels of each structure in it.
Finder = Callable[[MetaTensor], Mapping[str, np.ndarray]]
Box = tuple[slice, slice, slice]


class CutOutInferer(StreamingWindowInferer):
    """Finds structures with another network, then labels the parts of each in a cut-out of the image.

    Every cut-out is scaled by itself, its 0.5th to 99.5th percentile to 0..1, as in the training of its
    network. An image no larger than a cut-out is treated as one, without a search for structures.

    Parameters
    ----------
    finder
        Function that locates the structures.
    values
        For each structure, the values that the network's classes 1, 2, ... become in the label map.
    alone
        The same for an image that is itself a cut-out, so that the structure it shows is unknown.
    margin
        Millimetres by which a cut-out is wider than its structure, on each side.
    whole
        Largest edge in mm, along every axis, of an image that is treated as a cut-out.
    least
        Least number of voxels of a structure that counts as found.
    options
        See `StreamingWindowInferer`.
    """

    def __init__(
        self,
        *args: Any,
        finder: Finder,
        values: Mapping[str, Sequence[int]],
        alone: Sequence[int],
        margin: float = 6.0,
        whole: float = 80.0,
        least: int = 300,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.finder, self.values, self.alone = finder, dict(values), tuple(alone)
        self.margin, self.whole, self.least = margin, whole, least

    def run(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
        out: np.ndarray | None = None,
    ) -> dict[str, Tensor | np.ndarray]:
        """The labels of all cut-outs in the target's grid.

        Raises
        ------
        StudyError
            If the image has no affine, or no structure is found in it.
        """
        started = time.perf_counter()
        if not isinstance(image, MetaTensor):
            raise StudyError("image-without-affine", "the image has no affine", do="give a MetaTensor")
        target = target or Grid(_shape(image), image.affine.cpu().numpy().astype(np.float64))
        labels = np.zeros(target.shape, np.uint8) if out is None else out
        labels[...] = 0
        windows = passes = 0
        for box, values in self._cut_outs(image):
            found = super().run(_cut(image, box), network, target, args, kwargs)
            part = as_array(found["labels"])
            for value, meaning in enumerate(values, start=1):
                labels[part == value] = meaning
            windows, passes = windows + self.report.windows, passes + self.report.forward_passes
            seconds = time.perf_counter() - started
        self.report.windows, self.report.forward_passes, self.report.seconds = windows, passes, seconds
        return {"labels": labels}

    def _cut_outs(self, image: MetaTensor) -> list[tuple[Box, Sequence[int]]]:
        """The boxes to segment, and the meaning of the classes in each."""
        affine = image.affine.cpu().numpy().astype(np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if np.all(np.array(_shape(image)) * spacing <= self.whole):
            x, y, z = (slice(0, n) for n in _shape(image))
            return [((x, y, z), self.alone)]
        places = self.finder(image)
        found = {name: places[name] for name in self.values if len(places.get(name, ())) >= self.least}
        if not found:
            raise StudyError(
                "structure-not-found",
                f"shows no {' or '.join(self.values)}",
                path=image.meta.get("filename_or_obj"),
                do="check that the bundle is for such images and that the header has the right orientation",
            )
        return [(self._box(image, affine, spacing, mm), self.values[name]) for name, mm in found.items()]

    def _box(self, image: MetaTensor, affine: np.ndarray, spacing: np.ndarray, places: np.ndarray) -> Box:
        voxels = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        reach = self.margin / spacing
        low = np.floor(voxels.min(axis=0) - reach).astype(int)
        high = np.ceil(voxels.max(axis=0) + reach).astype(int) + 1
        ends = zip(low.tolist(), high.tolist(), _shape(image), strict=True)
        x, y, z = (slice(max(first, 0), min(last, n)) for first, last, n in ends)
        return x, y, z


def _shape(image: Tensor) -> tuple[int, int, int]:
    x, y, z = (int(n) for n in image.shape[1:])
    return x, y, z


def _cut(image: MetaTensor, box: Box) -> MetaTensor:
    """A box of an image in its position in the patient, scaled by its own intensities."""
    data = image.as_tensor()[(slice(None), *box)].float()
    low, high = (torch.quantile(data, q) for q in (0.005, 0.995))
    scaled = ((data - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    affine = image.affine.clone()
    start = torch.tensor([part.start for part in box], dtype=affine.dtype, device=affine.device)
    affine[:3, 3] += affine[:3, :3] @ start
    return MetaTensor(scaled, affine=affine, meta={k: v for k, v in image.meta.items() if k != "affine"})
