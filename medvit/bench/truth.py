"""Real images that stand for the truth, and what a coarser scan would show of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from scipy import ndimage

from medvit.bench.upsampling import Stacks, applied
from medvit.errors import MedvitError, StudyError
from medvit.metrics import hfen, nrmse, psnr, ssim
from medvit.studies import LoadedStudy, Study, read_study
from medvit.studies.in_memory import study_in_memory
from medvit.studies.study import Grid
from medvit.transforms.slice_stack import Profile, SliceStack

_PROFILES = ("box", "gauss")
_NORMALS = {"sagittal": 0, "coronal": 1, "axial": 2}
# Scores of a restored image, and the words for them.
SCORES = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "nrmse": "NRMSE", "hfen": "HFEN"}
# Studies whose own slices are thicker cannot stand for the truth.
_COARSEST_TRUTH = 1.3
_FOREGROUND = 0.1


@dataclass(frozen=True)
class RestoreOptions:
    """How studies are made coarse, and what is compared besides the images.

    Parameters
    ----------
    factor
        Voxels between the centres of neighbouring slices, 4 by default, or of neighbouring pixels, 2.
    thickness
        Thickness of a slice in voxels; the same by default.
    profile
        Sensitivity across a slice, see `SliceStack`.
    noise
        Standard deviation of the Rician noise of the coarse images, as a share of the brightest tissue.
    plane
        Plane of the slices.
    cut
        Edge in voxels of a cube in the middle of each study, to which the comparison is confined.
    segmenter
        Bundle whose label map of each result is compared with that of the true image.
    in_plane
        Whether the pixels of slices become coarse, and not the slices thick.
    """

    factor: int | None = None
    thickness: float | None = None
    profile: str = "box"
    noise: float = 0.0
    plane: str = "axial"
    cut: int | None = None
    segmenter: str | None = None
    in_plane: bool = False

    def __post_init__(self) -> None:
        if self.factor is not None and self.factor < 2:
            raise MedvitError(f"slices or pixels must be at least 2 voxels apart, not {self.factor}")
        if self.profile not in _PROFILES:
            raise MedvitError(f"the profile is {' or '.join(_PROFILES)}, not {self.profile!r}")
        if self.in_plane and (self.thickness is not None or self.profile != _PROFILES[0]):
            raise MedvitError("thickness and profile are those of slices, not of pixels within them")
        if self.plane not in _NORMALS:
            raise MedvitError(f"the plane is {', '.join(_NORMALS)}, not {self.plane!r}")
        if not 0 <= self.noise < 1:
            raise MedvitError(f"the noise is a share of the brightest tissue below 1, not {self.noise:g}")

    @property
    def step(self) -> int:
        """Voxels between neighbouring slices or pixels."""
        return self.factor or (2 if self.in_plane else 4)


@dataclass(frozen=True)
class Truth:
    """A real image, and what a coarser scan would show of it.

    Parameters
    ----------
    name
        Id of the study.
    image
        (X, Y, Z) over its 99.5 percentile, the slices' normal last.
    grid
        Grid of `image`.
    stacks
        The thick slices along the last axis, or the coarse pixels along the other two.
    samples
        Measured intensities.
    """

    name: str
    image: np.ndarray
    grid: Grid
    stacks: Stacks
    samples: np.ndarray

    @property
    def coarse_study(self) -> LoadedStudy:
        """What was measured, as a study."""
        affine = self.grid.affine.copy()
        for axis, stack in self.stacks.items():
            affine[:3, 3] += affine[:3, axis] * stack.first
            affine[:3, axis] *= stack.step / stack.spacing
        return study_in_memory(self.samples, affine, self.name)

    def scores(self, restored: np.ndarray) -> dict[str, float]:
        """PSNR, SSIM, NRMSE and HFEN in the foreground; 1 is the 99.5 percentile of the true image."""
        mask = foreground(self.image)
        return {
            "psnr_db": psnr(restored[mask], self.image[mask], data_range=1),
            "ssim": ssim(restored, self.image, data_range=1, mask=mask),
            "nrmse": nrmse(restored, self.image, mask=mask),
            "hfen": hfen(restored, self.image, mask=mask),
        }


def foreground(image: np.ndarray) -> np.ndarray:
    """Voxels of an image over its 99.5 percentile that belong to the head: air would flatter every score."""
    bright = ndimage.binary_opening(image > _FOREGROUND)
    return ndimage.binary_fill_holes(bright)


def make_truth(found: Study, options: RestoreOptions) -> Truth:
    """Make a real study coarse.

    Raises
    ------
    StudyError
        If its voxels are too coarse to stand for the truth, or it is too small.
    """
    study = read_study(found)
    if max(study.grid.spacing) > _COARSEST_TRUTH:
        what = f"voxels of {max(study.grid.spacing):.3g} mm are too coarse to stand for the truth"
        raise StudyError("coarse-truth", what, path=study.path, do="give images of about 1 mm")
    normal = int(np.abs(study.grid.affine[_NORMALS[options.plane], :3]).argmax())
    order = [a for a in range(3) if a != normal] + [normal]
    whole = study.image[0].numpy().transpose(order)
    bright = float(np.percentile(whole[whole > 0], 99.5))
    box = _box(whole.shape, options)
    image = (whole[box] / bright).clip(0)
    _check_size(image.shape, options, study.path)
    affine = study.grid.affine[:, [*order, 3]].copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    stacks = _stacks(image.shape, [study.grid.spacing[a] for a in order], options)
    # A scan in k-space gives magnitudes, so what rings below 0 is folded up.
    samples = np.abs(applied(SliceStack.acquire, image, stacks))
    if options.noise:
        generator = np.random.default_rng(0)
        parts = options.noise * generator.standard_normal((2, *samples.shape))
        samples = np.hypot(samples + parts[0], parts[1])
    x, y, z = image.shape
    return Truth(study.id, image, Grid((x, y, z), affine), stacks, samples)


def _coarse_axes(options: RestoreOptions) -> tuple[int, ...]:
    return (0, 1) if options.in_plane else (2,)


def _check_size(shape: tuple[int, ...], options: RestoreOptions, path: Path) -> None:
    for axis in _coarse_axes(options):
        if shape[axis] < 2 * options.step:
            what = "pixels along an axis of a slice" if options.in_plane else "slices"
            raise StudyError(
                "small-truth",
                f"the part that is compared has too few voxels for two {what}, {options.step} voxels apart",
                path=path,
                do="choose a smaller --factor or a larger --cut, or leave the study out",
            )


def _stacks(shape: tuple[int, ...], spacing: Sequence[float], options: RestoreOptions) -> Stacks:
    step, stacks = options.step, {}
    for axis in _coarse_axes(options):
        count, edge = shape[axis] // step, spacing[axis]
        if options.in_plane:
            stacks[axis] = SliceStack(count, step * edge, step * edge, count * step, edge, 0.0, "kspace")
        else:
            thickness = (options.thickness or step) * edge
            profile = cast(Profile, options.profile)
            stacks[axis] = SliceStack.centred(count, step * edge, thickness, edge, profile)
    return stacks


def _box(shape: tuple[int, ...], options: RestoreOptions) -> tuple[slice, ...]:
    """The part that is compared: the middle, and along the coarse axes whole slices or pixels."""
    edges = [min(options.cut or n, n) for n in shape]
    for axis in _coarse_axes(options):
        edges[axis] -= edges[axis] % options.step
    starts = [(n - edge) // 2 for n, edge in zip(shape, edges, strict=True)]
    return tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))
