"""Small synthetic series that stand for what a scanner sends: conformant CT and MR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medvit.studies.study import Grid

OBLIQUE = ((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


_COMMON = {
    "PatientName": "Doe^Jane",
    "PatientID": "P1",
    "PatientSex": "F",
    "PatientBirthDate": "19500102",
    "AccessionNumber": "A1",
    "StudyID": "S1",
    "ReferringPhysicianName": "Who^Doctor",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "ContentDate": "20200304",
    "ContentTime": "101113",
    "Manufacturer": "Maker",
    "SeriesNumber": 3,
    "AcquisitionNumber": 1,
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "Laterality": "",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 1,
}
_CT = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "KVP": 120,
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
    "RescaleType": "HU",
}
_MR = {
    "ImageType": ["ORIGINAL", "PRIMARY", "M"],
    "ScanningSequence": "SE",
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "EchoTime": 10,
    "RepetitionTime": 500,
    "EchoTrainLength": 1,
}


def write_series(
    folder: Path,
    shape: tuple[int, int, int] = (20, 16, 6),
    *,
    modality: str = "CT",
    orientation: tuple = AXIAL,
    spacing: tuple[float, float, float] = (0.8, 0.9, 2.5),
    seed: int = 0,
    **attributes: object,
) -> tuple[list[Path], Grid]:
    """Write one series, file names in no order; give the paths, by name, and the grid of its voxels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(),
            "FrameOfReferenceUID": generate_uid()}  # fmt: skip
    along_row, along_column = (np.array(v) for v in orientation)
    normal = np.cross(along_row, along_column)
    origin = np.array([-30.0, 12.5, 40.0])
    names = rng.permutation(shape[2])
    for k in range(shape[2]):
        image = _header(modality, uids, k)
        image.ImagePositionPatient = [round(float(v), 6) for v in origin + k * spacing[2] * normal]
        image.ImageOrientationPatient = [*map(float, along_row), *map(float, along_column)]
        image.PixelSpacing = [spacing[1], spacing[0]]
        image.SliceThickness = spacing[2]
        image.Columns, image.Rows = shape[0], shape[1]
        image.PixelData = rng.integers(0, 2000, (shape[1], shape[0])).astype(np.int16).tobytes()
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        image.save_as(folder / f"IM{names[k]:04d}.dcm", enforce_file_format=True)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = (
        along_row * spacing[0],
        along_column * spacing[1],
        normal * spacing[2],
    )
    lps[:3, 3] = origin
    return sorted(folder.glob("*.dcm")), Grid(shape, np.diag([-1.0, -1, 1, 1]) @ lps)


def _header(modality: str, uids: dict[str, str], k: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    image.SOPInstanceUID = generate_uid()
    image.update(uids)
    values = _COMMON | {"Modality": modality, "InstanceNumber": k + 1} | (_CT if modality == "CT" else _MR)
    for keyword, value in values.items():
        setattr(image, keyword, value)
    return image


def values_of(paths: list[Path], grid: Grid) -> np.ndarray:
    """The rescaled values of a series in the index order of `grid`, matched by position along the normal."""
    normal = np.diag([-1.0, -1, 1])[:3, :3] @ (grid.affine[:3, 2] / np.linalg.norm(grid.affine[:3, 2]))
    images = sorted(map(pydicom.dcmread, paths), key=lambda i: float(np.dot(i.ImagePositionPatient, normal)))
    planes = [
        i.pixel_array.astype(float) * float(i.get("RescaleSlope", 1)) + float(i.get("RescaleIntercept", 0))
        for i in images
    ]
    return np.stack(planes).transpose(2, 1, 0)
