"""`SynthesisSettings`: amount of variation of synthetic images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class SynthesisSettings:
    """Amount of variation of synthetic images. Probabilities are per sample, lengths in mm.

    Parameters
    ----------
    shape, spacing
        Voxels of a sample along x, y, z, and their edge.
    contrasts
        Name of a contrast prior, or ``"random"``, to its share of the samples.
    rotation, scaling, shear
        Largest angle in degrees, relative change of size, and shear of the affine deformation.
    elastic
        Standard deviation of the smooth displacement, whose control points are `elastic_step` apart.
    translation
        Largest shift of the sample's centre from the brain's, along x, y, z.
    far
        Probability of a shift three times as large: windows with little head or none.
    flip
        Probability of mirroring; sides are swapped in the target.
    skull_strip, tight_strip, rough_strip
        Probability that everything but the brain is removed, and of those samples the shares in which the
        outer fluid goes too, and in which the edge is looser or tighter than the labels. The target is
        background wherever the brain itself was removed.
    deface
        Probability that the face is removed.
    zero
        Probability that what was removed, or air, is exactly 0.
    crop, wrap
        Probabilities of a cut field of view, and of one end folded over onto the other.
    thick_slices, slice_thickness
        Probability of slices thicker than `spacing` along any axis, and their range.
    blur, ringing, motion
        Probabilities of blur, of truncated k-space, and of movement while k-space was filled.
    bias, noise, gamma
        Largest strength of the bias field (log), of the noise (share of the range), of log gamma.
    texture, shading
        Largest standard deviation within a tissue voxel by voxel, and of smooth changes (share of the range).
    border_weights
        Structure, without its side, to the weight with which `BorderWeights` draws its borders in the target
        anew; the image keeps those of the label map.
    """

    shape: tuple[int, int, int] = (80, 96, 80)
    spacing: float = 2.0
    contrasts: dict[str, float] = field(
        default_factory=lambda: {"T1": 0.45, "T2": 0.12, "PD": 0.12, "FLAIR": 0.06, "random": 0.25}
    )
    rotation: float = 15.0
    scaling: float = 0.15
    shear: float = 0.05
    elastic: float = 3.0
    elastic_step: float = 32.0
    translation: float | tuple[float, float, float] = 12.0
    far: float = 0.0
    flip: float = 0.5
    skull_strip: float = 0.25
    tight_strip: float = 0.4
    rough_strip: float = 0.4
    deface: float = 0.05
    zero: float = 0.5
    crop: float = 0.15
    wrap: float = 0.03
    thick_slices: float = 0.25
    slice_thickness: tuple[float, float] = (2.0, 7.0)
    blur: float = 0.5
    ringing: float = 0.05
    motion: float = 0.05
    bias: float = 0.5
    noise: float = 0.08
    gamma: float = 0.4
    texture: float = 0.08
    shading: float = 0.15
    border_weights: dict[str, float] = field(default_factory=dict)

    def without(self, *faults: str) -> SynthesisSettings:
        """The same with each of the named settings at 0."""
        none: dict[str, Any] = dict.fromkeys(faults, 0.0)
        return replace(self, **none)
