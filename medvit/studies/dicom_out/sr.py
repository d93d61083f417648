"""Volumes as a DICOM structured report after template TID 1500 (PS3.16 A.6.1)."""

from __future__ import annotations

from collections.abc import Mapping

import highdicom as hd
from highdicom import sr
from highdicom.seg import Segmentation
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medvit.errors import MedvitError
from medvit.studies.dicom_out.common import (
    Algorithm,
    equipment,
    identity,
    nameless,
    restore_names,
    side_of,
    sr_code,
)
from medvit.studies.dicom_out.source import SourceSeries
from medvit.studies.labels import LabelTable, Structure

_MILLILITER = Code("mL", "UCUM", "milliliter")
_QUALITY = Code("QUALITY_CONTROL", "99MEDVIT", "Quality control")
_IMAGING = Code("363679005", "SCT", "Imaging procedure")


def measurement_report(
    volumes: Mapping[str, float],
    seg: Segmentation,
    source: SourceSeries,
    table: LabelTable,
    algorithm: Algorithm,
    *,
    verdict: str = "",
) -> sr.ComprehensiveSR:
    """One measurement group for each structure: its volume, its code and side, its segment in the SEG.

    Parameters
    ----------
    volumes
        Structure name to ml.
    seg
        The segmentation that was measured, made by `segmentation` from the same table.
    source
        The series that was segmented.
    table
        Segment and code of each name.
    algorithm
        What made the segmentation.
    verdict
        Verdict of quality control, such as ``"red: no brain was found"``; the report contains it as text.

    Raises
    ------
    MedvitError
        If a name is not in the table, there is no volume at all, or a volume is negative or not finite.
    """
    if not volumes:
        raise MedvitError("there is no volume to report; pass at least one structure")
    unknown = sorted(set(volumes) - set(table.by_name))
    if unknown:
        raise MedvitError(f"label table {table.name!r} has no structure named {', '.join(unknown)}")
    wrong = sorted(name for name, ml in volumes.items() if not 0 <= ml < float("inf"))
    if wrong:
        raise MedvitError(f"the volume of {', '.join(wrong)} is negative or not a number; measure again")
    evidence = [nameless(i) for i in source.images]
    content = sr.MeasurementReport(
        observation_context=_observer(algorithm),
        procedure_reported=_IMAGING,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[
            _group(table.by_name[name], ml, seg, source, algorithm) for name, ml in volumes.items()
        ],
    )
    if verdict:
        said = sr.TextContentItem(_QUALITY, verdict, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        content[0].ContentSequence.append(said)
    result = sr.ComprehensiveSR(
        evidence=[*evidence, nameless(seg)],
        content=content,
        is_complete=True,
        **identity(source, 2, f"{algorithm.name} volumes"),
        **equipment(algorithm),
    )
    restore_names(result, source)
    return result


def _observer(algorithm: Algorithm) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), manufacturer_name="medvit", model_name=algorithm.name
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _group(
    structure: Structure, ml: float, seg: Segmentation, source: SourceSeries, algorithm: Algorithm
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=structure.name),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=structure.value,
            source_series=sr.SourceSeriesForSegmentation(source.first.SeriesInstanceUID),
        ),
        finding_category=sr_code(structure.category),
        finding_type=sr_code(structure.code),
        finding_sites=[sr.FindingSite(sr_code(structure.code), laterality=side_of(structure))],
        algorithm_id=sr.AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version,
            parameters=[f"{k}={v}" for k, v in algorithm.parameters.items()] or None,
        ),
        # Six significant digits are finer than a voxel of any scanner in any organ.
        measurements=[sr.Measurement(name=codes.SCT.Volume, value=float(f"{ml:.6g}"), unit=_MILLILITER)],
    )
