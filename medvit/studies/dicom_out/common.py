"""Common parts of all DICOM results: who made them, how they are numbered, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode
from pydicom.uid import ExplicitVRLittleEndian

import medvit
from medvit.studies.dicom_out.source import SourceSeries
from medvit.studies.files import atomic_path
from medvit.studies.labels import Code, Structure

MANUFACTURER = "medvit"

# Laterality, PS3.16 CID 244.
SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}


@dataclass(frozen=True)
class Algorithm:
    """What made a result, as stated in the result.

    Parameters
    ----------
    name
        The bundle ("segformer3d_brain").
    version
        Version of the bundle.
    weights
        SHA-256 of the weights, as hexadecimal digits.
    """

    name: str
    version: str
    weights: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """Statements besides name and version."""
        return {"weights_sha256": self.weights} if self.weights else {}


def sr_code(code: Code) -> SRCode:
    """A code of a label table in highdicom's form."""
    return SRCode(code.value, code.scheme, code.meaning)


def equipment(algorithm: Algorithm) -> dict[str, Any]:
    """Enhanced General Equipment (PS3.3 C.7.5.2), under the names of highdicom's arguments."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name,
        "software_versions": medvit.__version__,
        "device_serial_number": algorithm.weights[:16] or "none",
    }


def identity(source: SourceSeries, kind: int, description: str) -> dict[str, Any]:
    """New UIDs and a series number after that of the source, under the names of highdicom's arguments."""
    return {
        "series_instance_uid": hd.UID(),
        "sop_instance_uid": hd.UID(),
        "series_number": series_number(source, kind),
        "instance_number": 1,
        "series_description": description[:64],
    }


def series_number(source: SourceSeries, kind: int) -> int:
    """A number for a derived series that sorts after its source in the list of a viewer."""
    return max(int(source.first.get("SeriesNumber") or 0), 0) % 100_000 * 100 + 50 + kind


def nameless(image: Dataset) -> Dataset:
    """A shallow copy without the patient's name.

    highdicom quotes names that it considers unusual in a warning, and no log may show a patient.
    """
    # Neither Dataset(image) nor assignment by attribute: both would change `image`.
    copy = Dataset({e.tag: e for e in image})
    copy.add_new("PatientName", "PN", "")
    copy.add_new("ReferringPhysicianName", "PN", "")
    return copy


def restore_names(result: Dataset, source: SourceSeries) -> None:
    """Add the names of the source to a result that was made from `nameless` headers."""
    result.PatientName = source.first.PatientName
    result.ReferringPhysicianName = source.first.ReferringPhysicianName


def new_object(
    source: SourceSeries, sop_class_uid: str, modality: str, kind: int, description: str, algorithm: Algorithm
) -> hd.SOPClass:
    """An object of the patient and study of `source`, for IODs without a class in highdicom."""
    first = nameless(source.first)
    result = hd.SOPClass(
        sop_class_uid=sop_class_uid,
        modality=modality,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        study_instance_uid=first.StudyInstanceUID,
        patient_id=first.PatientID,
        patient_name=first.PatientName,
        patient_birth_date=first.PatientBirthDate,
        patient_sex=first.PatientSex,
        accession_number=first.AccessionNumber,
        study_id=first.StudyID,
        study_date=first.StudyDate or None,
        study_time=first.StudyTime or None,
        specific_character_set=first.SpecificCharacterSet,
        **identity(source, kind, description),
        **equipment(algorithm),
    )
    result.copy_patient_and_study_information(first)
    restore_names(result, source)
    return result


def reference_to(image: Dataset, frame: int | None = None) -> Dataset:
    """A sequence item that refers to an image or to one of its frames."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    return reference


def side_of(structure: Structure) -> SRCode | None:
    """Laterality of a structure; ``None`` if it is not paired."""
    return SIDES.get(structure.side)


def save_dicom(result: Dataset, path: Path) -> None:
    """Write one object so that `path` is either absent or complete."""
    with atomic_path(path) as partial:
        result.save_as(partial, enforce_file_format=True)
