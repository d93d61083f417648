"""Label maps and images in files: written in the format a viewer asks for, read onto a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.label.errors import RequestError
from medvit.studies import Grid, Study, find_studies, read_study, write_image, write_label_map

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")


def only_study(path: Path | str) -> Study:
    """The one study in a file or a DICOM folder.

    Raises
    ------
    StudyError
        If there is none, or several.
    """
    found = find_studies(path)
    if found.refused:
        raise found.refused[0].error
    if len(found.studies) != 1:
        raise StudyError("not-one-study", f"holds {len(found.studies)} studies", path=path, do="give one")
    return found.studies[0]


def write_volume(path: Path, voxels: np.ndarray, study: Study, *, is_label_map: bool) -> Path:
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
    if path.name.endswith((".nii", ".nii.gz")):
        return write_label_map(path, voxels, study) if is_label_map else write_image(path, voxels, study)
    assert study.grid is not None, "results are written of studies that were read"
    if is_label_map:
        voxels = voxels.astype(np.uint8 if voxels.max(initial=0) < 256 else np.uint16)
    return _write_itk(path, voxels, study.grid)


def _write_itk(path: Path, voxels: np.ndarray, grid: Grid) -> Path:
    import SimpleITK

    # ITK's world is LPS, ours RAS.
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.array(grid.spacing)).ravel().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=True)
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
        If the file is no label map.
    """
    study = read_study(only_study(path))
    assert study.image is not None and study.grid is not None, "it was just read"
    voxels = study.image[0].numpy()
    if (voxels != np.round(voxels)).any() or voxels.min(initial=0) < 0 or voxels.max(initial=0) > 65535:
        raise StudyError(
            "not-a-label-map", "holds values that are no labels", path=path, do="save a label map"
        )
    return labels_on(target, voxels.astype(np.uint16), study.grid.affine)


def labels_on(target: Grid, labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """`labels` with their `affine` (to RAS+ mm), on the grid `target`: the nearest label at each voxel."""
    to_labels = np.linalg.inv(affine) @ target.affine
    if labels.shape == target.shape and np.allclose(to_labels, np.eye(4), atol=1e-3):
        return labels
    from scipy.ndimage import affine_transform

    # An offset such as 5e-7 below 0 would lose the first slice.
    to_labels = np.where(np.abs(to_labels - np.round(to_labels)) < 1e-4, np.round(to_labels), to_labels)
    return affine_transform(labels, to_labels, output_shape=target.shape, order=0, mode="constant", cval=0)
