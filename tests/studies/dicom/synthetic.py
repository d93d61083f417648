"""A CT series by construction: every stored value and every voxel's place is known beforehand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medvit.studies.study import Grid


def uid(*parts: object) -> str:
    """A UID that is the same in each run."""
    return generate_uid(entropy_srcs=["synthetic", *map(str, parts)])


@dataclass
class Synthetic:
    """Slices, their places and their rescale; `datasets` turns them into DICOM.

    Parameters
    ----------
    stored
        (slices, rows, columns) integers.
    positions
        ImagePositionPatient of each slice, LPS mm.
    header
        What the data sets hold beside pixels and geometry.
    """

    stored: np.ndarray
    positions: np.ndarray
    header: Dataset
    orientation: np.ndarray = field(default_factory=lambda: np.array([1.0, 0, 0, 0, 1, 0]))
    spacing: tuple[float, float] = (0.9765625, 0.9765625)
    slopes: np.ndarray = field(default_factory=lambda: np.ones(1))
    intercepts: np.ndarray = field(default_factory=lambda: np.full(1, -1024.0))

    @property
    def values(self) -> np.ndarray:
        """Real values (slices, rows, columns), float32."""
        shape = (-1, 1, 1)
        real = self.stored * self.slopes.reshape(shape) + self.intercepts.reshape(shape)
        return real.astype(np.float32)

    @property
    def places(self) -> np.ndarray:
        """RAS+ millimetres of each voxel, (slices, rows, columns, 3)."""
        count, rows, columns = self.stored.shape
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        along_row = self.orientation[:3] * self.spacing[1] * column[..., None]
        along_column = self.orientation[3:] * self.spacing[0] * row[..., None]
        lps = self.positions[:, None, None, :] + (along_row + along_column)[None]
        assert lps.shape[0] == count
        return lps * (-1, -1, 1)

    def datasets(self) -> list[Dataset]:
        """One data set a slice, explicit VR little endian."""
        return [self._dataset(k) for k in range(len(self.stored))]

    def _dataset(self, k: int) -> Dataset:
        ds = copy.deepcopy(self.header)
        ds.SOPInstanceUID = uid("instance", ds.SeriesInstanceUID, k)
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [f"{v:.10g}" for v in self.positions[k]]
        ds.ImageOrientationPatient = [f"{v:.12g}" for v in self.orientation]
        ds.PixelSpacing = [f"{v:.10g}" for v in self.spacing]
        ds.RescaleSlope = f"{self.slopes[k % len(self.slopes)]:.8g}"
        ds.RescaleIntercept = f"{self.intercepts[k % len(self.intercepts)]:.8g}"
        set_pixels(ds, self.stored[k])
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return ds


def set_pixels(ds: Dataset, stored: np.ndarray) -> None:
    """The image (rows, columns) as 16-bit pixels, with the extremes that a scanner notes."""
    ds.Rows, ds.Columns = stored.shape
    signed = stored.min() < 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = int(signed)
    ds.SamplesPerPixel = 1
    ds.add_new("SmallestImagePixelValue", "SS" if signed else "US", int(stored.min()))
    ds.add_new("LargestImagePixelValue", "SS" if signed else "US", int(stored.max()))
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"


def made_up() -> Synthetic:
    """A noisy, lopsided phantom of 10 slices of 36 x 40, head first, written from top to bottom."""
    count, rows, columns = 10, 36, 40
    k, r, c = np.meshgrid(np.arange(count), np.arange(rows), np.arange(columns), indexing="ij")
    noise = np.random.default_rng(7).integers(0, 60, k.shape)
    body = 900 * (((r - 16) / 13) ** 2 + ((c - 17) / 15) ** 2 < 1) * (1 + 0.04 * k)
    stored = (100 + body + 6 * c + 3 * r + noise).astype(int)
    positions = np.column_stack(
        [np.full(count, -15.5), np.full(count, -170.25), 766.5 - 2.0 * np.arange(count)]
    )
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    header.StudyDate, header.Modality, header.Manufacturer = "20240102", "CT", "Phantom Works"
    header.SeriesDescription = "Body 3.0"
    header.PatientName, header.PatientID = "Phantom^Anna", "P-0042"
    header.SliceThickness = "3"  # not the 2 mm between the slices: positions alone tell
    header.StudyInstanceUID, header.SeriesInstanceUID = uid("study"), uid("series")
    header.FrameOfReferenceUID = uid("frame of reference")
    header.AcquisitionNumber = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.RescaleType = "HU"
    return Synthetic(stored, positions, header)


def assert_right(image: np.ndarray, grid: Grid, truth: Synthetic) -> None:
    """Every voxel of the truth is where it belongs with its value, and there is no other."""
    assert image.dtype == np.float32
    assert image.shape == grid.shape
    assert image.size == truth.stored.size
    homogeneous = np.concatenate([truth.places, np.ones((*truth.stored.shape, 1))], axis=-1)
    index = (homogeneous @ np.linalg.inv(grid.affine).T)[..., :3]
    nearest = np.rint(index).astype(int)
    assert np.abs(index - nearest).max() < 0.02
    assert (nearest >= 0).all()
    assert (nearest < image.shape).all()
    found = image[tuple(np.moveaxis(nearest, -1, 0))]
    np.testing.assert_allclose(found, truth.values, rtol=1e-6, atol=0)
