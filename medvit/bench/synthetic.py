"""Synthetic studies with exact references: held-out label maps in fixed contrasts and resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medvit import __version__
from medvit.bench.cache import is_current, key_of, write_record
from medvit.bench.studies import BenchStudy, Reference
from medvit.evaluation.structures import ScoredStructure
from medvit.studies import sha256_of
from medvit.studies.channels import stem_of
from medvit.studies.files import write_image, write_label_map
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid

GROUP = "synthetic, held out"
_FIELD_OF_VIEW = (160, 192, 160)  # margin around the brain in mm
_SEED = 20
# Settings that would remove a part of the reference, or that are not part of the acquisition.
_NOT = ("skull_strip", "deface", "crop", "wrap", "thick_slices", "ringing", "motion", "zero")


@dataclass(frozen=True)
class Acquisition:
    """Contrast and resolution in which a synthetic head is acquired.

    Parameters
    ----------
    contrast
        Contrast of `medvit.synthesis`: ``"T1"``, ``"T2"``, ``"PD"`` or ``"FLAIR"``.
    spacing
        Spacing in mm within a slice.
    thickness
        Ratio of the slice thickness, from feet to head, to `spacing`. A slice that the field of view does not
        hold in full, at the head's top, is left out.
    """

    contrast: str
    spacing: float
    thickness: int = 1

    @property
    def name(self) -> str:
        """Name such as ``T2_1x1x5mm``."""
        return f"{self.contrast}_{self.spacing:g}x{self.spacing:g}x{self.spacing * self.thickness:g}mm"


ACQUISITIONS = (Acquisition("T1", 1.0), Acquisition("T2", 1.0, thickness=5), Acquisition("FLAIR", 2.0))


def synthetic_studies(
    table: LabelTable,
    label_maps: Path,
    folder: Path,
    *,
    held_out: Sequence[str],
    acquisitions: Sequence[Acquisition] = ACQUISITIONS,
) -> list[BenchStudy]:
    """Each held-out head in each acquisition; the same on every machine, and made only once.

    Parameters
    ----------
    table
        The label table "brain".
    label_maps
        Folder of NIfTI label maps with FreeSurfer's labels, 1 mm.
    folder
        Folder for the images and label maps.
    held_out
        Parts of the names of the label maps to take, which no bundle was trained on.

    Raises
    ------
    StudyError
        If there are no such label maps, or one cannot be used.
    """
    from medvit.synthesis import find_label_maps

    structures = tuple(ScoredStructure(s.name, (s.value,)) for s in table)
    studies = []
    for number, path in enumerate(find_label_maps(label_maps, include=held_out)):
        made_from = {"label_map": sha256_of(path), "seed": _SEED + number, "medvit": __version__}
        for acquisition in acquisitions:
            name = f"{stem_of(path)}_{acquisition.name}"
            image, labels = folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"
            record, key = folder / f"{name}.json", key_of(made_from | asdict(acquisition))
            if not (is_current(record, key) and image.is_file() and labels.is_file()):
                _make(path, acquisition, _SEED + number, image, labels)
                write_record(record, key, {"label_map": path.name, "acquisition": asdict(acquisition)})
            studies.append(BenchStudy(name, image, (Reference(GROUP, labels, structures, structures),)))
    return studies


def _make(label_map: Path, acquisition: Acquisition, seed: int, image_path: Path, labels_path: Path) -> None:
    import torch

    from medvit.synthesis import SynthesisSettings, Synthesizer, brain_anatomy, read_head_map

    anatomy = brain_anatomy()
    settings = SynthesisSettings(
        shape=tuple(round(length / acquisition.spacing) for length in _FIELD_OF_VIEW),
        spacing=acquisition.spacing,
        contrasts={acquisition.contrast: 1.0},
        translation=4.0,
        flip=0.0,
    ).without(*_NOT)
    generator = torch.Generator().manual_seed(seed)
    image, labels = (
        v[0].numpy() for v in Synthesizer(anatomy, settings)(read_head_map(label_map, anatomy), generator)
    )
    # A thick slice averages its content, but the labels drawn on it follow its middle.
    n = acquisition.thickness
    whole = image.shape[2] // n * n
    image = image[..., :whole].reshape(*image.shape[:2], -1, n).mean(axis=-1)
    labels = labels[..., :whole][..., n // 2 :: n]
    steps = np.array([acquisition.spacing, acquisition.spacing, acquisition.spacing * n])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(image.shape) - 1) / 2
    grid = Grid(image.shape, affine)
    write_image(image_path, image, grid)
    write_label_map(labels_path, labels, grid)
