"""Region maps from the Segment Anything Model: a grid of points, filtered masks, painted by size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from torch import Tensor

from medvit.errors import MissingExtraError, WeightsError
from medvit.transforms.regions import grey_levels

# Mean and standard deviation of the 8-bit pixels that SAM was trained on.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class SamRegions:
    """Regions of an image from SAM, without prompts, as RAT was trained on.

    Every point of a grid asks SAM for three masks; those that SAM is sure of and whose outline is stable
    stay, near-duplicates go, and the rest is painted with labels 1..N from the largest to the smallest, so
    that small masks lie on top. Pixels of no mask get N + 1.

    Parameters
    ----------
    weights
        Folder of a SAM model for `transformers` (``config.json``, ``model.safetensors``), such as a copy of
        ``facebook/sam-vit-base``. Nothing is downloaded.
    points_per_side, points_per_batch
        Edge of the grid of points, and points computed together.
    min_iou, min_stability
        Smallest overlap that SAM predicts for a mask, and smallest overlap of the mask's outlines at
        logits 1 and -1.
    max_box_overlap
        Largest overlap of the bounding boxes of two masks that both stay.
    device
        Where SAM runs.

    Raises
    ------
    MissingExtraError
        On first use, if `transformers` is not installed.
    WeightsError
        On first use, if the folder holds no SAM model.

    References
    ----------
    Kirillov et al.: Segment anything, ICCV 2023, arXiv 2304.02643 (appendix B for the filters).
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        min_iou: float = 0.88,
        min_stability: float = 0.95,
        max_box_overlap: float = 0.7,
        device: str | torch.device = "cpu",
    ) -> None:
        self.weights = Path(weights)
        self.points_per_side, self.points_per_batch = points_per_side, points_per_batch
        self.min_iou, self.min_stability, self.max_box_overlap = min_iou, min_stability, max_box_overlap
        self.device = torch.device(device)

    @cached_property
    def model(self) -> Any:
        """SAM, read at first use.

        Raises
        ------
        WeightsError
            If the folder holds no complete SAM model.
        MissingExtraError
            If `transformers` is not installed.
        """
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("the region source 'sam'", "sam") from error
        if not (self.weights / "config.json").is_file():
            raise WeightsError(
                f"{self.weights}: holds no SAM model; give the folder that holds its config.json"
            )
        try:
            load: Any = transformers.SamModel.from_pretrained
            model, report = load(
                self.weights, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise WeightsError(
                f"{self.weights}: is not a SAM model that transformers can load ({error})"
            ) from error
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise WeightsError(f"{self.weights}: not a complete SAM model: it lacks {missing}")
        return model.to(self.device).eval()

    @torch.no_grad()
    def __call__(self, image: ArrayLike) -> NDArray[np.int32]:
        """Region numbers (H, W) of an image (1 or 3, H, W) in any unit.

        Raises
        ------
        ValueError
            If the image has another shape or holds values that are not finite.
        """
        masks, scores = [], []
        for mask, score in self._masks(_eight_bit(image)):
            masks.append(mask)
            scores.append(score)
        if not masks:
            return np.ones(np.shape(image)[1:], np.int32)
        stack = np.stack(masks)
        return paint(stack[distinct(bounding_boxes(stack), np.array(scores), self.max_box_overlap)])

    def _masks(self, image: Tensor) -> Iterator[tuple[NDArray[np.bool_], float]]:
        """Masks (H, W) that pass the filters, and the overlap that SAM predicts for each."""
        size = tuple(image.shape[1:])
        edge = int(self.model.config.vision_config.image_size)
        height, width = (max(1, round(n * edge / max(size))) for n in size)
        resized = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
        pixels = F.pad((resized - mean) / std, (0, edge - width, 0, edge - height)).to(self.device)
        embedding = self.model.get_image_embeddings(pixels)
        steps = (torch.arange(self.points_per_side) + 0.5) / self.points_per_side
        points = torch.cartesian_prod(steps * height, steps * width).flip(-1).to(self.device)
        for part in points.split(self.points_per_batch):
            output = self.model(
                image_embeddings=embedding,
                input_points=part[None, :, None],
                input_labels=torch.ones(1, len(part), 1, dtype=torch.long, device=self.device),
                multimask_output=True,
            )
            scores = output.iou_scores.flatten()
            sure = scores >= self.min_iou
            for logits, score in zip(
                output.pred_masks.flatten(0, 2)[sure], scores[sure].tolist(), strict=True
            ):
                full = F.interpolate(logits[None, None], (edge, edge), mode="bilinear", align_corners=False)
                full = full[..., :height, :width]
                full = F.interpolate(full, size, mode="bilinear", align_corners=False)[0, 0]
                inner, outer = int((full > 1).sum()), int((full > -1).sum())
                if inner and inner >= self.min_stability * outer:
                    yield (full > 0).cpu().numpy(), score


def bounding_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 4) boxes top, left, bottom, right of non-empty masks (N, H, W); the ends are exclusive."""
    profiles = [np.asarray(masks.any(axis=axis)) for axis in (2, 1)]
    starts = [profile.argmax(axis=1) for profile in profiles]
    ends = [profile.shape[1] - profile[:, ::-1].argmax(axis=1) for profile in profiles]
    return np.stack([*starts, *ends], axis=1).astype(np.float64)


def distinct(boxes: NDArray[np.float64], scores: NDArray[np.float64], max_overlap: float) -> list[int]:
    """Indices of the boxes that stay when, best first, each drops those that overlap it by more (IoU)."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting):
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        starts = np.maximum(boxes[best, :2], boxes[waiting, :2])
        ends = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        shared = np.clip(ends - starts, 0, None).prod(axis=1)
        waiting = waiting[shared <= max_overlap * (areas[best] + areas[waiting] - shared)]
    return kept


def paint(masks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Labels (H, W) of masks (N, H, W): 1..N from the largest to the smallest, on top; N + 1 elsewhere."""
    regions = np.full(masks.shape[1:], len(masks) + 1, np.int32)
    for label, index in enumerate(np.argsort(-masks.sum(axis=(1, 2)), kind="stable"), start=1):
        regions[masks[index]] = label
    return regions


def _eight_bit(image: ArrayLike) -> Tensor:
    """An image (1 or 3, H, W) as (3, H, W) in 0..255."""
    if np.ndim(image) != 3 or np.shape(image)[0] not in (1, 3):
        raise ValueError(f"SAM needs an image (1, H, W) or (3, H, W), not {np.shape(image)}")
    grey = torch.from_numpy(grey_levels(image)).permute(2, 0, 1)
    return (255 * grey).round().expand(3, -1, -1)
