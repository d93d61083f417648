"""Label maps and images in files: written in the format a viewer asks for, read onto a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medvit.label.errors import RequestError
from medvit.studies import Grid, LoadedStudy, formats, write_image, write_label_map
from medvit.studies.grids import resample_onto, to_sitk

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")


def write_volume(path: Path, voxels: np.ndarray, study: LoadedStudy, *, is_label_map: bool) -> Path:
    """Write (X, Y, Z) `voxels` on the grid of `study`, in the format that the suffix of `path` names.

    Raises
    ------
    RequestError
        If the format is not one of `EXTENSIONS`.
    """
    if not path.name.endswith(EXTENSIONS):
        raise RequestError(
            f"results are written as {', '.join(EXTENSIONS)}, not as {''.join(path.suffixes)!r}"
        )
    import SimpleITK

    if path.name.endswith((".nii", ".nii.gz")):
        return write_label_map(path, voxels, study) if is_label_map else write_image(path, voxels, study)
    if is_label_map:
        voxels = voxels.astype(np.uint8 if voxels.max(initial=0) < 256 else np.uint16)
    SimpleITK.WriteImage(to_sitk(voxels, study.grid), str(path), useCompression=True)
    return path


def read_label_map(path: Path | str, target: Grid) -> np.ndarray:
    """A label map from a file, on a grid.

    Parameters
    ----------
    path
        NIfTI, NRRD or MetaImage.
    target
        The grid to bring it to; a map that lies on it already comes as it is, whatever its axes.

    Returns
    -------
    numpy.ndarray
        (X, Y, Z) uint16.

    Raises
    ------
    StudyError
        If the file is not a label map.
    """
    found = formats.read_label_map(Path(path))
    return labels_on(target, found.array, found.grid)


def labels_on(target: Grid, labels: np.ndarray, own: Grid) -> np.ndarray:
    """`labels`, which lie on the grid `own`, on the grid `target`: the nearest label at each voxel."""
    return labels if own.matches(target) else resample_onto(target, labels, own, nearest=True)
