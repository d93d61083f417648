"""The choices of a pre-training."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.errors import MedvitError
from medvit.training.choices import check_positive

TASKS = ("masked", "mae", "uni4eye", "swin")


@dataclass(frozen=True)
class PretrainingChoices:
    """Choices of the user for a pre-training.

    Parameters
    ----------
    steps
        Optimiser steps, unless `minutes` is given.
    minutes
        Duration of the training; the learning rate then follows the clock.
    batch_size
        Windows of a step; by default 2, and of slices about as many as hold 32 of 64 x 64 pixels.
    learning_rate
        Highest learning rate of AdamW.
    task
        ``"masked"``: the network predicts masked cells; ``"mae"``: a plain vision transformer sees the other
        patches alone; ``"uni4eye"``: the same with slices and volumes in turn; ``"swin"``: Swin UNETR's
        rotation, contrast and inpainting.
    mask_ratio
        Share that is masked: 0.6 of the cells by default, and 0.75 of the patches.
    cell
        Edge of a masked cell in voxels, 8 by default; patches have the edge that the network gives them.
    patch_size
        Edges of a window in voxels; that of the bundle by default.
    spacing
        Spacing in mm; that of the bundle by default, and the median of the studies for a network by name.
    start
        ``"weights"``: continue from the bundle's weights, the default where there are any that fit;
        ``"scratch"``: from random ones.
    watch_fraction
        Share of the patients whose studies are kept apart to watch the error.
    recipe
        File of a recipe whose network, window, spacing and scaling of intensities are taken.
    seed
        Seed of all random numbers.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    """

    steps: int = 1000
    minutes: float | None = None
    batch_size: int | None = None
    learning_rate: float = 5e-4
    task: str = "masked"
    mask_ratio: float | None = None
    cell: int | None = None
    patch_size: tuple[int, ...] | None = None
    spacing: tuple[float, float, float] | None = None
    start: str = ""
    watch_fraction: float = 0.1
    recipe: str = ""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise MedvitError(f"--task must be one of {', '.join(TASKS)}, not {self.task!r}")
        if self.task == "swin" and self.batch_size == 1:
            raise MedvitError("--task swin tells the windows of a step apart: --batch-size must be 2 or more")
        if self.mask_ratio is not None and self.task == "swin":
            raise MedvitError("--mask-ratio does not apply to --task swin, which masks nothing")
        if self.cell is not None and self.task != "masked":
            raise MedvitError(f"--cell does not apply to --task {self.task}: only --task masked masks cells")
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise MedvitError(f"--mask-ratio must lie between 0 and 1, not {self.mask_ratio}")
        if self.cell is not None and self.cell < 2:
            raise MedvitError(f"--cell must be 2 voxels or more, not {self.cell}")
        if self.start not in ("", "weights", "scratch"):
            raise MedvitError(f"--from must be weights or scratch, not {self.start!r}")
        if self.recipe and self.start == "weights":
            raise MedvitError("the bundle's weights do not fit the network of a --recipe: add --from scratch")
        if not 0 <= self.watch_fraction < 1:
            raise MedvitError(f"watch_fraction must lie in [0, 1), not {self.watch_fraction}")
        check_positive(
            {
                "--steps": self.steps, "--minutes": self.minutes, "--batch-size": self.batch_size,
                "--learning-rate": self.learning_rate, "--patch-size": self.patch_size,
                "--spacing": self.spacing,
            }
        )  # fmt: skip
