"""Studies from images in memory: of nibabel, SimpleITK or MONAI, or arrays with their affine."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from medvit.errors import MedvitError
from medvit.studies.gate import doubts, placement_fault, size_fault
from medvit.studies.study import Grid, LoadedStudy, Series, Study

# Between RAS and LPS, the coordinate system of ITK.
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Voxels, (X, Y, Z) or (C, X, Y, Z); affine to RAS+ mm, if the type has one; and notes for the user.
_Parts = tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]


def study_in_memory(image: Any, affine: np.ndarray | None = None, name: str = "image") -> LoadedStudy:
    """A study from an image in memory.

    Parameters
    ----------
    image
        Image of nibabel or SimpleITK, a MetaTensor (C, X, Y, Z) or (X, Y, Z), or an array (X, Y, Z), or
        (C, X, Y, Z) for several images.
    affine
        4x4, voxel index to RAS+ millimetres; required with an array, refused with anything else.
    name
        Id of the study.

    Raises
    ------
    MedvitError
        If the image is of another type or shape, its voxels cannot be read, or its affine is missing or is
        not one.
    StudyError
        If the header of an image of nibabel would be refused in a file: it states no orientation, other
        units than millimetres, or contradictory ones.
    """
    from medvit.studies.files import safe_name
    from medvit.studies.formats import meta_tensor

    voxels, own, notes = _parts(image)
    if own is None and affine is None:
        raise MedvitError("an array needs its affine: pass a 4x4 matrix from voxel index to RAS+ millimetres")
    if own is not None and affine is not None:
        raise MedvitError(f"{type(image).__name__} has an affine of its own: leave the argument out")
    matrix = _checked(own if own is not None else affine)
    if voxels.dtype.kind not in "biuf":
        raise MedvitError(f"voxels must be real numbers, not {voxels.dtype}; pass magnitudes")
    if voxels.ndim not in (3, 4):
        raise MedvitError(
            f"an image has three axes, or four with channels first; this one has shape {voxels.shape}"
        )
    voxels = voxels[None] if voxels.ndim == 3 else voxels
    if not len(voxels) or size_fault(voxels.shape[1:]):
        raise MedvitError(f"an image of shape {voxels.shape} has no voxels, or implausibly many")
    if bad := voxels.size - int(np.count_nonzero(np.isfinite(voxels))):
        raise MedvitError(
            f"{bad} of {voxels.size} voxels are NaN or infinite; "
            "replace them by the value that means 'no signal' in this image"
        )
    grid = Grid((voxels.shape[1], voxels.shape[2], voxels.shape[3]), matrix)
    name = safe_name(name)
    study = Study(name, (Series((), "memory"),) * len(voxels))
    tensor = meta_tensor(np.ascontiguousarray(voxels, np.float32), grid, name)
    said = dict.fromkeys((*notes, *doubts(matrix)))
    return LoadedStudy.of(study, tensor, grid, *said)


def _checked(affine: Any) -> np.ndarray:
    try:
        affine = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError):
        affine = np.empty(0)
    # A matrix whose last row holds something else, rounding apart, is transposed or not an affine at all.
    if affine.shape != (4, 4) or not np.allclose(affine[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        raise MedvitError("the affine must be a 4x4 matrix with the last row 0, 0, 0, 1")
    affine[3] = [0, 0, 0, 1]
    if fault := placement_fault(affine):
        raise MedvitError(f"the affine must be an invertible matrix in millimetres; its axes {fault}")
    return affine


def _parts(image: Any) -> _Parts:
    kind = f"{type(image).__module__}.{type(image).__name__}"
    if isinstance(image, np.ndarray):
        return image, None, ()
    for module, parts in _KINDS.items():
        if kind.startswith(module):
            return parts(image)
    raise MedvitError(
        f"{kind} is not an image: pass a path, an image of nibabel or SimpleITK, a MetaTensor, or an array "
        "with its affine"
    )


def _of_nibabel(image: Any) -> _Parts:
    from nibabel.analyze import AnalyzeImage
    from nibabel.filebasedimages import ImageFileError
    from nibabel.nifti1 import Nifti1Pair
    from nibabel.spatialimages import SpatialImage

    from medvit.studies.nibabel_formats import ANALYZE_DOUBT
    from medvit.studies.nifti_header import placement

    if not isinstance(image, SpatialImage):
        raise MedvitError(f"{type(image).__name__} of nibabel is not an image on a grid of voxels; pass one")
    if image.ndim > 3 and set(image.shape[3:]) != {1}:
        raise MedvitError(f"an image of nibabel must hold one volume; this one has shape {image.shape}")
    x, y, z = (*image.shape, 1, 1, 1)[:3]
    affine = np.asarray(image.affine)
    notes: tuple[str, ...] = ()
    if isinstance(image, Nifti1Pair):  # nibabel makes up an affine where the header states none
        affine, notes = placement(None, image.header, (x, y, z))
    elif isinstance(image, AnalyzeImage):
        notes = (ANALYZE_DOUBT,)
    try:  # the first access reads the file, if the image has one
        return np.asarray(image.dataobj).reshape(x, y, z), affine, notes
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        where = image.get_filename() or "the image"
        why = " ".join(str(error).split())
        raise MedvitError(f"{where}: its voxels cannot be read ({why}); fetch the file again") from error


def _of_sitk(image: Any) -> _Parts:
    import SimpleITK

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise MedvitError("an image of SimpleITK must have three axes and one component per voxel")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), _TO_LPS @ affine, ()


def _of_monai(image: Any) -> _Parts:
    affine = image.affine.cpu().numpy()
    # MONAI's readers keep ITK's coordinates with affine_lps_to_ras=False, and say so.
    affine = _TO_LPS @ affine if image.meta.get("space") == "LPS" else affine
    tensor = image.as_tensor().detach().cpu()
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy(), affine, ()


_KINDS: dict[str, Callable[[Any], _Parts]] = {
    "nibabel.": _of_nibabel,
    "SimpleITK.": _of_sitk,
    "monai.data.meta_tensor.MetaTensor": _of_monai,
}
