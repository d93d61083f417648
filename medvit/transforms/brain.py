"""Steps before and after the network that the brain bundles share."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import Compose, Orientationd

from medvit.studies.labels import load_label_table
from medvit.transforms.bias import CorrectBiasd
from medvit.transforms.components import LargestComponentd, Places
from medvit.transforms.load_study import LoadStudyd
from medvit.transforms.percentiles import ScaleToPercentilesd
from medvit.transforms.resample import ResampleImaged

# Centres of the right structures in mm from the median voxel of the deep grey matter, means of 18 adults.
_ANCHORS = ("thalamus", "caudate nucleus", "putamen", "globus pallidus")
_OFFSETS: dict[str, tuple[float, float, float]] = {
    "lateral ventricle": (14, -10, 6),
    "cerebellar white matter": (16, -37, -40),
    "cerebellar cortex": (22, -45, -45),
    "thalamus": (11, -11, 0),
    "caudate nucleus": (14, 13, 8),
    "putamen": (25, 7, -2),
    "globus pallidus": (19, 4, -4),
    "hippocampus": (24, -11, -18),
    "amygdala": (22, 6, -19),
    "nucleus accumbens": (8, 18, -6),
    "ventral diencephalon": (10, -6, -13),
    "brain-stem": (0, -16, -34),
    "third ventricle": (0, -2, -6),
    "fourth ventricle": (0, -29, -38),
}


def prepare_head_mr(keys: str, spacing: Sequence[float], bias_correction: bool = False) -> Compose:
    """Transforms from a study to the image that a brain network takes, as `medvit.synthesis` makes it.

    Parameters
    ----------
    keys
        Key of the study, and then of its image (1, X, Y, Z): RAS order, intensities between the 0.5 and the
        99.5 percentile scaled to 0..1 and cut there.
    spacing
        Edges of a voxel in mm.
    bias_correction
        Whether the brightness field of the coils is divided out first (N4).
    """
    corrections = [CorrectBiasd(keys)] if bias_correction else []
    return Compose(
        [
            LoadStudyd(keys),
            Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            ResampleImaged(keys, spacing),
            *corrections,
            ScaleToPercentilesd(keys),
        ]
    )


def clean_brain_labels(keys: str) -> LargestComponentd:
    """Keep the brain, and the part of each of its compact structures that is in the right place.

    White matter, cortex and cerebrospinal fluid may come in pieces, and ventricles in parts that lie where
    they belong: the inferior horn is often separate from its ventricle.
    """
    spread = ("cerebral white matter", "cerebral cortex", "cerebrospinal fluid")
    table = load_label_table("brain")
    offsets = {}
    for s in table:
        if s.unsided_name in _OFFSETS:
            right, front, up = _OFFSETS[s.unsided_name]
            offsets[s.value] = (-right if s.side == "left" else right, front, up)
    anchors = frozenset(s.value for s in table if s.unsided_name in _ANCHORS)
    compact = [s.value for s in table if s.unsided_name not in spread]
    in_parts = frozenset(s.value for s in table if s.in_parts)
    return LargestComponentd(keys, compact, Places(anchors, offsets, in_parts=in_parts))
