"""Coarse localization: a first pass on a coarse grid finds the part of an image to lay windows over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from medvit.inference.execution import Execution, Network
from medvit.inference.predict import Flips, InferenceReport, Predictor
from medvit.inference.windows import Volume, WindowPlan
from medvit.transforms.resample import average_to_spacing

# Pieces that hold less than this share of the largest one are taken for specks.
_SPECK = 0.1


@dataclass(frozen=True)
class Region:
    """A box of an image, and the voxels in it that are worth segmenting.

    Parameters
    ----------
    volume
        The box.
    start
        Index of its first voxel in the whole image; empty for the whole.
    occupied
        (X', Y', Z') bool, the box's voxels in or near an object; ``None`` if every window must be seen.
    note
        Why the whole image is taken, if the rule found no region.
    """

    volume: Volume
    start: tuple[int, ...] = ()
    occupied: np.ndarray | None = None
    note: str = ""

    def rule(self, plan: WindowPlan) -> Callable[[tuple[int, ...]], bool] | None:
        """Whether the window at a position in the padded box holds anything worth segmenting."""
        if self.occupied is None:
            return None
        occupied, before = self.occupied, [pad for pad, _ in plan.padding]

        def wanted(start: tuple[int, ...]) -> bool:
            sizes = zip(start, before, plan.roi_size, strict=True)
            return bool(occupied[tuple(slice(max(s - b, 0), s - b + n) for s, b, n in sizes)].any())

        return wanted


RegionRule = Callable[[Volume, Sequence[Network], Execution], Region]


class RegionFinder(ABC):
    """Puts a box around a mask on a coarse grid; a subclass makes the mask.

    Parameters
    ----------
    spacing
        Edge of the coarse grid's voxels in mm; axes of coarser images stay as they are.
    margin
        Millimetres by which the box is wider than what was found.
    least_ml
        Smaller volumes do not count as found; then the whole image is used, and the report says so.
    """

    def __init__(self, spacing: float, margin: float, least_ml: float) -> None:
        if spacing <= 0 or margin < 0:
            raise ValueError(f"spacing must be above 0 mm and margin 0 or more, not {spacing} and {margin}")
        self.spacing, self.margin, self.least_ml = spacing, margin, least_ml

    @abstractmethod
    def weights(self, coarse: Tensor, networks: Sequence[Network], execution: Execution) -> Tensor:
        """Probability (X, Y, Z), 0..1, of the region at each voxel of a coarse image (C, X, Y, Z)."""

    def __call__(self, volume: Volume, networks: Sequence[Network], execution: Execution) -> Region:
        """The part of `volume` to segment.

        Raises
        ------
        StudyError
            If the image has no affine.
        """
        grid = volume.grid
        device = execution.device_for(networks)
        image = volume.read(0, 0, volume.size[0]).to(device)
        spacing = [max(self.spacing, present) for present in grid.spacing]
        coarse = average_to_spacing(MetaTensor(image, affine=torch.from_numpy(grid.affine)), spacing)
        weights = self.weights(coarse.as_tensor(), networks, execution).cpu().numpy()
        found = _without_specks(np.nan_to_num(weights))
        if found.sum() * np.prod(spacing) / 1000 < self.least_ml:
            note = f"the coarse pass found less than {self.least_ml:g} ml: the whole image was segmented"
            return Region(volume, note=note)
        matrix = np.linalg.solve(grid.affine, np.asarray(coarse.affine, np.float64))
        box = self._box(found, matrix, spacing, volume.size)
        reach = [2 * int(np.ceil(self.margin / s)) + 1 for s in spacing]
        near = ndimage.maximum_filter(found, reach)
        nearest = [
            np.round((np.arange(s.start, s.stop) - matrix[a, 3]) / matrix[a, a]).clip(0, n - 1).astype(int)
            for a, (s, n) in enumerate(zip(box, found.shape, strict=True))
        ]
        return Region(volume.crop(box), tuple(s.start for s in box), near[np.ix_(*nearest)])

    def _box(
        self, found: np.ndarray, matrix: np.ndarray, spacing: Sequence[float], size: Sequence[int]
    ) -> tuple[slice, ...]:
        """The box of the image around the mask; `matrix` maps coarse voxels to those of the image."""
        box = []
        for axis, present in enumerate(found.nonzero()):
            step = matrix[axis, axis]
            beyond = step * (0.5 + self.margin / spacing[axis])
            low = step * present.min() + matrix[axis, 3] - beyond
            high = step * present.max() + matrix[axis, 3] + beyond
            box.append(slice(max(int(np.floor(low)), 0), min(int(np.ceil(high)) + 1, size[axis])))
        return tuple(box)


class CoarseRegion(RegionFinder):
    """The region in which a network sees foreground on a coarse grid, such as the brain of a whole head.

    Parameters
    ----------
    spacing
        Edge of the coarse grid's voxels in mm.
    margin
        Millimetres by which the box is wider than what was found.
    least_ml
        Smaller volumes do not count as found; then the whole image is used, and the report says so.
    network
        Network of the coarse pass, such as that of another bundle whose images are prepared alike; ``None``
        for the network that looks. Its classes exclude each other.
    classes
        Channels that make the region; ``None`` for all but the first.
    divisor
        The edges of images for the network are multiples of it.

    Examples
    --------
    >>> rule = CoarseRegion(spacing=2.0, margin=4.0, least_ml=0.5)
    >>> from medvit.inference import StreamingWindowInferer
    >>> inferer = StreamingWindowInferer(roi_size=(16, 16, 16), region=rule)
    >>> image = torch.zeros(1, 64, 64, 64)
    >>> image[:, 20:36, 20:36, 20:36] = 1
    >>> image = MetaTensor(image, affine=torch.eye(4))
    >>> labels = inferer.segment(image, lambda x: torch.cat([0.5 - x, x - 0.5], 1))
    >>> int(labels.sum()), inferer.report.region
    (4096, [[15, 40], [15, 40], [15, 40]])
    """

    def __init__(
        self,
        spacing: float = 4.0,
        margin: float = 8.0,
        least_ml: float = 100.0,
        *,
        network: Network | None = None,
        classes: Sequence[int] | None = None,
        divisor: int = 32,
    ) -> None:
        super().__init__(spacing, margin, least_ml)
        self.network, self.classes, self.divisor = network, classes, divisor

    def weights(self, coarse: Tensor, networks: Sequence[Network], execution: Execution) -> Tensor:
        """Probability of foreground."""
        own = list(networks) if self.network is None else [self.network]
        shape = coarse.shape[1:]
        widths = [width for n in reversed(shape) for width in (0, -n % self.divisor)]
        # The coarse image of each study has its own size, and is seen once.
        execution = replace(execution, backend="torch")
        predictor = Predictor(own, Flips(), execution, InferenceReport())
        with execution.running(own):
            logits = predictor(F.pad(coarse, widths)[None])[0].float()
        probability = logits[(slice(None), *(slice(n) for n in shape))].softmax(0)
        chosen = range(1, len(probability)) if self.classes is None else self.classes
        return probability[list(chosen)].sum(0)


class ForegroundRegion(RegionFinder):
    """The region that is brighter than air, without a network.

    Parameters
    ----------
    threshold
        Intensity of the prepared image above which a voxel counts, in the mean over its channels.
    spacing, margin, least_ml
        Same as in `CoarseRegion`.
    """

    def __init__(
        self, threshold: float, spacing: float = 4.0, margin: float = 8.0, least_ml: float = 100.0
    ) -> None:
        super().__init__(spacing, margin, least_ml)
        self.threshold = threshold

    def weights(self, coarse: Tensor, networks: Sequence[Network], execution: Execution) -> Tensor:
        """1 where the image exceeds the threshold."""
        return (coarse.mean(0) > self.threshold).float()


def _without_specks(weights: np.ndarray) -> np.ndarray:
    """Mask of the voxels that more likely than not belong to the region, without its negligible pieces."""
    pieces, count = ndimage.label(weights > 0.5)
    if count == 0:
        return np.zeros(weights.shape, bool)
    masses = ndimage.sum_labels(weights, pieces, np.arange(count + 1))
    masses[0] = 0
    return (masses >= _SPECK * masses.max())[pieces]
