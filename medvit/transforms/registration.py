"""Rigid registration of two volumes of one patient."""

from __future__ import annotations

import numpy as np

from medvit.studies.grids import to_sitk
from medvit.studies.study import Grid

# Voxel edges in mm at which the volumes are compared, from coarse to fine.
_LEVELS_MM = (6.0, 3.0)
_SAMPLED = [1.0, 0.2]  # share of the voxels that are compared at each level


def rigid_from_points(fixed: np.ndarray, moving: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rotation and shift that bring points onto others with the least weighted squared distance.

    Parameters
    ----------
    fixed, moving
        (N, 3) corresponding points in mm.
    weights
        (N,) weights of the pairs.

    Returns
    -------
    numpy.ndarray
        4x4, from `fixed` to `moving`; without a rotation where the points do not determine one.

    References
    ----------
    Kabsch: A solution for the best rotation to relate two sets of vectors, Acta Crystallographica A32, 1976.
    """
    from_centre, to_centre = (np.average(points, axis=0, weights=weights) for points in (fixed, moving))
    covariance = (fixed - from_centre).T @ ((moving - to_centre) * weights[:, None])
    u, strength, vt = np.linalg.svd(covariance)
    rotation = np.eye(3)
    if len(fixed) >= 3 and strength[1] > 1e-3 * strength[0]:
        rotation = vt.T @ np.diag([1.0, 1.0, np.linalg.det(vt.T @ u.T)]) @ u.T
    return _matrix(rotation, to_centre - rotation @ from_centre)


def register_rigidly(
    fixed: np.ndarray, fixed_grid: Grid, moving: np.ndarray, moving_grid: Grid, start: np.ndarray
) -> np.ndarray:
    """The rotation and shift under which two volumes of equal intensities agree best (mean squares).

    Parameters
    ----------
    fixed, moving
        (X, Y, Z) float32, 0 outside.
    fixed_grid, moving_grid
        Grids of the two.
    start
        4x4 from the patient coordinates (RAS+ mm) of `fixed` to those of `moving`, right to some centimetres.

    Returns
    -------
    numpy.ndarray
        4x4, like `start`.
    """
    import SimpleITK

    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world is LPS, ours RAS
    begin = flip @ start @ flip
    images = [to_sitk(fixed, fixed_grid), to_sitk(moving, moving_grid)]
    centre = np.array(images[0].TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.shape]))
    transform = SimpleITK.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(begin[:3, :3].ravel().tolist(), 1e-4)
    transform.SetTranslation((begin[:3, :3] @ centre + begin[:3, 3] - centre).tolist())
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(_SAMPLED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    shrink = [max(1, round(level / max(fixed_grid.spacing))) for level in _LEVELS_MM]
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([level / 2 for level in _LEVELS_MM])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsConjugateGradientLineSearch(1.0, 30, 1e-5, 5, 0.0, 5.0, 0.05, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(*images)
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    shift = np.array(transform.GetTranslation()) + centre - rotation @ centre
    return flip @ _matrix(rotation, shift) @ flip


def _matrix(rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, shift
    return matrix
