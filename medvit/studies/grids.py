"""Arrays on other grids: turned and shifted by whole voxels, or resampled on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvit.studies.study import Grid

if TYPE_CHECKING:
    import SimpleITK

# In voxels: grids that differ by less are equal within the precision of headers.
SAME_VOXEL = 0.01


def place(labels: np.ndarray, own: Grid, target: Grid, tolerance: float = SAME_VOXEL) -> np.ndarray | None:
    """`labels` in the index order of `target`; 0 outside their own grid.

    Parameters
    ----------
    labels
        (X, Y, Z) integers on the grid `own`.
    own, target
        Grids of the same voxels: axes may be swapped or reversed, and begin elsewhere.
    tolerance
        Largest allowed displacement, as a share of a voxel.

    Returns
    -------
    numpy.ndarray or None
        Labels of the shape of `target`; ``None`` if the voxels differ, or a label lies outside `target`.
    """
    to_target = np.linalg.inv(target.affine) @ own.affine
    steps, first, last = to_target[:3, :3], to_target[:3, 3], np.array(labels.shape) - 1
    whole, start = np.round(steps), np.round(first)
    off = np.abs((steps - whole) * last).sum(axis=1) + np.abs(first - start)
    if (np.sort(np.abs(whole)) != [0, 0, 1]).any() or (np.abs(whole).sum(axis=0) != 1).any():
        return None
    if off.max() > tolerance:
        return None
    axes = np.abs(whole).argmax(axis=1)  # the own axis that runs along each axis of the target
    backwards = tuple(axis for axis in range(3) if whole[axis, axes[axis]] < 0)
    turned = np.flip(labels.transpose(axes), backwards)
    low = np.minimum(start, start + whole @ last).astype(int)
    return _paste(turned, low, target.shape)


def _paste(labels: np.ndarray, low: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """`labels`, whose first voxel has the index `low`, in an array of `shape`."""
    first, beyond = np.maximum(low, 0), np.minimum(low + labels.shape, shape)
    result = np.zeros(shape, labels.dtype)
    if (first < beyond).all():
        inside = labels[tuple(slice(a, b) for a, b in zip(first - low, beyond - low, strict=True))]
        result[tuple(slice(a, b) for a, b in zip(first, beyond, strict=True))] = inside
    return result if np.count_nonzero(result) == np.count_nonzero(labels) else None


def same_voxels(own: Grid, target: Grid, tolerance: float = SAME_VOXEL) -> bool:
    """Whether every voxel of one grid is one of the other, whatever the order of their axes."""
    if sorted(own.shape) != sorted(target.shape):
        return False
    return place(np.broadcast_to(np.uint8(1), own.shape), own, target, tolerance) is not None


def between(one: Grid, other: Grid) -> np.ndarray:
    """4x4 from the voxel indices of one grid to those of another; near-integers are rounded."""
    matrix = np.linalg.inv(other.affine) @ one.affine
    # An offset such as 5e-7 below 0 would lose the first slice.
    return np.where(np.abs(matrix - np.round(matrix)) < 1e-4, np.round(matrix), matrix)


def resample_onto(
    target: Grid, array: np.ndarray, own: Grid, *, nearest: bool = False, outside: float = 0
) -> np.ndarray:
    """`array`, on the grid `own`, at the voxels of `target`.

    Parameters
    ----------
    array
        (X, Y, Z), an image or a label map.
    nearest
        Whether to use the nearest voxel, as label maps require; linear otherwise.
    outside
        Value outside `own`.
    """
    from scipy.ndimage import affine_transform

    to_own = between(target, own)
    # Voxels reach half their width beyond their centres, where mode "constant" would already be outside.
    order = 0 if nearest else 1
    size, mode = target.shape, "grid-constant"
    return affine_transform(array, to_own, output_shape=size, order=order, mode=mode, cval=outside)


def to_sitk(array: np.ndarray, grid: Grid) -> SimpleITK.Image:
    """`array` (X, Y, Z) on `grid` as an image of SimpleITK, which uses LPS instead of RAS."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / grid.spacing).ravel().tolist())
    return image


def axis_codes(affine: np.ndarray) -> str:
    """Direction of each voxel axis in the patient, such as ``"RAS"``."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(affine))


def describe(grid: Grid) -> str:
    """Description such as ``"240 x 240 x 155 voxels of 1 x 1 x 1 mm"``."""
    size, spacing = (" x ".join(f"{n:.4g}" for n in numbers) for numbers in (grid.shape, grid.spacing))
    return f"{size} voxels of {spacing} mm"


def describe_beside(other: Grid, grid: Grid) -> str:
    """Description of another grid beside that of `grid`, which says so if only their places differ."""
    return describe(other) if describe(other) != describe(grid) else "of equal size, but elsewhere"


def joint_grid(one: Grid, other: Grid) -> Grid:
    """The grid of `one`, extended until it contains both."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in other.shape])).reshape(3, -1)
    reached = np.linalg.inv(one.affine) @ other.affine @ np.vstack([corners, np.ones(corners.shape[1])])
    indices = np.round(reached[:3]).astype(int)
    low = np.minimum(indices.min(axis=1), 0)
    x, y, z = (np.maximum(indices.max(axis=1), np.array(one.shape) - 1) - low + 1).tolist()
    shift = np.eye(4)
    shift[:3, 3] = low
    return Grid((x, y, z), one.affine @ shift)
