"""Label maps as contours: DICOM RT Structure Set (PS3.3 A.19), for treatment planning."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage
from scipy.ndimage import find_objects
from scipy.spatial.distance import cdist
from skimage.measure import find_contours, points_in_poly

from medvit.errors import MedvitError
from medvit.studies.dicom_out.common import Algorithm, new_object, reference_to
from medvit.studies.dicom_out.seg import check_label_map
from medvit.studies.dicom_out.source import Frame, SourceSeries
from medvit.studies.labels import LabelTable, Structure
from medvit.studies.study import Grid


def structure_set(
    label_map: np.ndarray, grid: Grid, source: SourceSeries, table: LabelTable, algorithm: Algorithm
) -> Dataset:
    """The structures that are in a label map as closed planar contours, one set for each slice.

    Contours run half-way between the voxels inside and outside, so that the voxels whose centre they
    enclose are those of the label map. A hole is joined to what surrounds it by a channel of no width
    (keyhole, PS3.3 C.8.8.6.3).

    Parameters
    ----------
    label_map, grid, source, table, algorithm
        As `segmentation` takes them; ROI numbers are label values.

    Raises
    ------
    MedvitError
        If the label map is wrong for `grid` or `table`, holds no structure (DICOM has no empty set), or the
        source has no place in a patient.
    StudyError
        If a slice does not lie on a frame of the source.
    """
    check_label_map(label_map, grid, table)
    boxes = find_objects(label_map, max_label=len(table))
    present = [s for s in table if boxes[s.value - 1] is not None]
    if not present:
        raise MedvitError("the label map is empty, which a structure set must not be; write a SEG")
    frames = source.frames_of(grid)
    if any(f.affine is None for f in frames):
        raise MedvitError("the source has no place in a patient, which contours need; write a SEG")
    result = new_object(
        source, RTStructureSetStorage, "RTSTRUCT", 5, f"{algorithm.name} structures", algorithm
    )
    result.FrameOfReferenceUID, result.PositionReferenceIndicator = source.first.FrameOfReferenceUID, ""
    result.OperatorsName = ""
    result.StructureSetLabel = table.name[:16]
    result.StructureSetDate, result.StructureSetTime = (
        result.InstanceCreationDate,
        result.InstanceCreationTime,
    )
    result.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    result.StructureSetROISequence = [_roi(s, source, algorithm) for s in present]
    result.ROIContourSequence = [_contours(s, label_map, boxes[s.value - 1], frames) for s in present]
    result.RTROIObservationsSequence = [_observation(s) for s in present]
    return result


def _frame_of_reference(source: SourceSeries) -> Dataset:
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.first.SeriesInstanceUID
    series.ContourImageSequence = [reference_to(image) for image in source.images]
    # Detached Study Management, retired but asked for here.
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = source.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(structure: Structure, source: SourceSeries, algorithm: Algorithm) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ROIName = structure.value, structure.name[:64]
    roi.ReferencedFrameOfReferenceUID = source.first.FrameOfReferenceUID
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:64]
    return roi


def _observation(structure: Structure) -> Dataset:
    observation, code = Dataset(), Dataset()
    code.CodeValue, code.CodeMeaning = structure.code.value, structure.code.meaning
    code.CodingSchemeDesignator = structure.code.scheme
    observation.ObservationNumber = observation.ReferencedROINumber = structure.value
    observation.RTROIIdentificationCodeSequence = [code]
    observation.RTROIInterpretedType = observation.ROIInterpreter = ""
    return observation


def _contours(
    structure: Structure, label_map: np.ndarray, box: tuple[slice, slice, slice], frames: list[Frame]
) -> Dataset:
    """The contours of a structure that lies within `box`."""
    contours = Dataset()
    contours.ReferencedROINumber, contours.ROIDisplayColor = structure.value, list(structure.color)
    columns, rows, slices = box
    contours.ContourSequence = [
        _contour(polygon + np.array([columns.start, rows.start]), frames[k])
        for k in range(slices.start, slices.stop)
        for polygon in _polygons(label_map[columns, rows, k] == structure.value)
    ]
    return contours


def _contour(polygon: np.ndarray, frame: Frame) -> Dataset:
    assert frame.affine is not None
    pixels = np.column_stack([polygon, np.zeros(len(polygon)), np.ones(len(polygon))])
    # DICOM's patient axes are LPS, those of the affine RAS.
    points = (pixels @ frame.affine.T)[:, :3] * [-1, -1, 1]
    contour = Dataset()
    contour.ContourImageSequence = [reference_to(frame.image, frame.number)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
    return contour


def _polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of a (columns, rows) mask with holes joined in, each (N, 2): column, row."""
    if not mask.any():
        return []
    rings = [ring[:-1] - 1 for ring in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    areas = [_area(r) for r in rings]
    # The largest ring is an outer one, and holes run the other way.
    direction = max(areas, key=abs)
    outer = [r for r, area in zip(rings, areas, strict=True) if area * direction > 0]
    holes = [r for r, area in zip(rings, areas, strict=True) if area * direction < 0]
    within: list[list[np.ndarray]] = [[] for _ in outer]
    for hole in holes:
        around = [i for i, ring in enumerate(outer) if points_in_poly(hole[:1], ring)[0]]
        within[min(around, key=lambda i: abs(_area(outer[i])))].append(hole)
    return [_turns(_with_holes(ring, inner)) for ring, inner in zip(outer, within, strict=True)]


def _turns(ring: np.ndarray) -> np.ndarray:
    """The ring without points on a straight line between their neighbours."""
    before, after = (ring - np.roll(ring, 1, 0)).T, (np.roll(ring, -1, 0) - ring).T
    bend = np.abs(before[0] * after[1] - before[1] * after[0]) > 1e-9
    back = (before * after).sum(axis=0) < 0
    return ring[bend | back]


def _area(ring: np.ndarray) -> float:
    """Signed area by the shoelace formula."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _with_holes(ring: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """Join holes to a ring by channels that run there and back, and so enclose nothing.

    Channels start and end within segments, at points that keep them off the centres of voxels: rounding would
    decide whether a centre on a channel is inside or outside.
    """
    for hole in holes:
        starts = ring + 0.37 * (np.roll(ring, -1, axis=0) - ring)
        ends = hole + 0.41 * (np.roll(hole, -1, axis=0) - hole)
        distance = cdist(starts, ends)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        start, end = starts[i : i + 1], ends[j : j + 1]
        ring = np.concatenate([start, np.roll(ring, -i - 1, 0), start, end, np.roll(hole, -j - 1, 0), end])
    return ring
