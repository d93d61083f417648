"""What the brain bundles have in common before and after the network."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import Compose, Orientationd, ScaleIntensityRangePercentilesd

from medvit.studies.labels import load_label_table
from medvit.transforms.bias import CorrectBiasd
from medvit.transforms.components import LargestComponentd
from medvit.transforms.load_study import LoadStudyd
from medvit.transforms.resample import ResampleImaged


def prepare_head_mr(keys: str, spacing: Sequence[float], bias_correction: bool = False) -> Compose:
    """From a study to the image that a brain network takes, as `medvit.synthesis` makes them.

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
            ScaleIntensityRangePercentilesd(keys, lower=0.5, upper=99.5, b_min=0.0, b_max=1.0, clip=True),
        ]
    )


def clean_brain_labels(keys: str) -> LargestComponentd:
    """Keep the largest piece of the brain and of each of its compact structures.

    White matter, cortex and cerebrospinal fluid may come in pieces.
    """
    spread = ("cerebral white matter", "cerebral cortex", "cerebrospinal fluid")
    table = load_label_table("brain")
    return LargestComponentd(keys, compact=[s.value for s in table if s.unsided_name not in spread])
