"""Hazards that lie in which images a series holds and what they say of themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from tests.studies.dicom.encoding import cut, save, save_as
from tests.studies.dicom.hazards import HAZARDS, Hazard, changed, each, hazard, one, write_all
from tests.studies.dicom.hazards_of_files import multiframe
from tests.studies.dicom.synthetic import Synthetic, set_pixels, uid

# Depth and sign -----------------------------------------------------------------------------------------


def eight_bits(ds: Dataset) -> None:
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7


each("46_eight_bits_declared_over_sixteen", "dicom-bad-bits")(eight_bits)


@hazard("46b_eight_bits_declared_in_enhanced", "dicom-bad-bits")
def _(truth: Synthetic, folder: Path) -> None:
    ds = multiframe(truth)
    eight_bits(ds)
    save(ds, folder / "enhanced.dcm")


@hazard("46c_eight_bits_declared_over_j2k", "dicom-bad-bits")
def _(truth: Synthetic, folder: Path) -> None:
    for k, ds in enumerate(truth.datasets()):
        path = save_as(ds, folder / f"IM{k:04d}.dcm", "j2k_lossless")
        ds = dcmread(path)
        eight_bits(ds)
        save(ds, path)


def signed_codestream(stored: np.ndarray, folder: Path, truth: Synthetic) -> None:
    """JPEG 2000 of signed samples under a header that calls them unsigned."""
    for k, ds in enumerate(replace(truth, stored=stored - 200, intercepts=np.array([-824.0])).datasets()):
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
        path = save_as(ds, folder / f"IM{k:04d}.dcm", "j2k_lossless")
        ds = dcmread(path)
        ds.PixelRepresentation = 0
        for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
            ds[keyword].VR = "US"
            ds[keyword].value = 65535
        save(ds, path)


@hazard("47_negative_j2k_called_unsigned", "dicom-sign")
def _(truth: Synthetic, folder: Path) -> None:
    signed_codestream(truth.stored, folder, truth)


@hazard("47b_positive_j2k_called_unsigned")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    stored = truth.stored + 200
    signed_codestream(stored, folder, truth)
    return [replace(truth, stored=stored)]


# A last slice that is not there any more ----------------------------------------------------------------


def last(name: str, damage: Callable[[Path], object]) -> None:
    def write(truth: Synthetic, folder: Path) -> None:
        HAZARDS["01_base"].write(truth, folder)
        damage(folder / f"IM{len(truth.stored) - 1:04d}.dcm")

    HAZARDS[name] = Hazard(write, "dicom-damaged-file|dicom-no-image")


last("48_last_slice_empty", lambda path: path.write_bytes(b""))
last("48b_last_slice_a_text", lambda path: path.write_text("moved to the archive on Monday"))
last("48c_last_slice_cut_in_its_preamble", lambda path: cut(path, 100))
last("48d_last_slice_cut_before_its_class", lambda path: cut(path, 350))

# Patients -----------------------------------------------------------------------------------------------


@one("49_one_slice_other_name", "dicom-mixed-series", which=-1)
def _(ds: Dataset) -> None:
    ds.PatientName = "Phantom^Berta"


@each("49b_one_name_written_in_several_ways")
def _(ds: Dataset) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = ["PHANTOM^ANNA^^", "Phantom^Anna", "Phantom^Anna=幻^安"][ds.InstanceNumber % 3]


@hazard("49c_other_birth_date", "dicom-mixed-series")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    for ds in slices:
        ds.PatientBirthDate = "19500101" if ds.InstanceNumber < 9 else "19600202"
    write_all(slices, folder)


@hazard("49d_other_sex", "dicom-mixed-series")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    for ds in slices:
        ds.PatientSex = "F" if ds.InstanceNumber < 9 else "M"
    write_all(slices, folder)


@each("49e_two_names_without_id", "dicom-mixed-series")
def _(ds: Dataset) -> None:
    ds.PatientID, ds.PatientName = "", f"Phantom^{'Anna' if ds.InstanceNumber < 6 else 'Berta'}"


# Slices made in different ways --------------------------------------------------------------------------


@each("50_echo_time_alternates", "dicom-mixed-acquisition")
def _(ds: Dataset) -> None:
    ds.EchoTime = 10 + 70 * (ds.InstanceNumber % 2)


@each("50b_echo_number_alternates", "dicom-mixed-acquisition")
def _(ds: Dataset) -> None:
    ds.EchoNumbers = 1 + ds.InstanceNumber % 2


@each("50c_half_at_another_kvp", "dicom-mixed-acquisition")
def _(ds: Dataset) -> None:
    ds.KVP = 120 if ds.InstanceNumber < 6 else 80


@each("50d_half_with_another_kernel", "dicom-mixed-acquisition")
def _(ds: Dataset) -> None:
    ds.ConvolutionKernel = "B30f" if ds.InstanceNumber < 6 else "B70f"


@hazard("50e_two_kernels_at_each_place")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    sharp = replace(truth, stored=truth.stored[:, ::-1])
    slices = [*truth.datasets(), *sharp.datasets()]
    for k, ds in enumerate(slices):
        ds.SOPInstanceUID = uid("kernel", k)
        ds.ConvolutionKernel = "B30f" if k < len(truth.stored) else "B70f"
    write_all(slices, folder)
    return [truth, sharp]


# Places -------------------------------------------------------------------------------------------------


@each("51_spacing_in_micrometres", "dicom-bad-spacing")
def _(ds: Dataset) -> None:
    ds.PixelSpacing = [976.5625, 976.5625]


@one("51b_position_far_away", "dicom-bad-position", which=-1)
def _(ds: Dataset) -> None:
    ds.ImagePositionPatient = [-15.5, -170.25, 1e7]


def apart(truth: Synthetic, step: float) -> Synthetic:
    """The same slices at another distance."""
    positions = np.round(truth.positions, 1)
    positions[:, 2] = 766.5 - step * np.arange(len(positions))
    return replace(truth, positions=positions)


def positions_noted(name: str, change: Callable[[np.ndarray], np.ndarray], note: str) -> None:
    """Positions beside those that are right by little enough for a note."""

    def write(truth: Synthetic, folder: Path) -> list[Synthetic]:
        even = apart(truth, 3.03)
        write_all(replace(even, positions=change(even.positions)).datasets(), folder)
        return [even]

    HAZARDS[name] = Hazard(write, note=note)


positions_noted("52_positions_to_a_tenth", lambda p: np.round(p, 1), "off an even grid")
positions_noted(
    "52b_positions_jitter",
    lambda p: p + [[0, 0, 0.04 * (-1) ** k] for k in range(len(p))],
    "Slices lie up to 0.040 mm off an even grid",
)
changed(
    "52c_positions_jitter_too_far",
    lambda t: replace(t, positions=t.positions + [[0, 0, 0.08 * (-1) ** k] for k in range(len(t.stored))]),
    refusal="dicom-uneven-spacing",
)


@hazard("52d_one_slice_of_a_fine_stack_is_missing", "dicom-missing-slice")
def _(truth: Synthetic, folder: Path) -> None:
    slices = apart(truth, 0.2).datasets()
    del slices[4]
    write_all(slices, folder)


# Values -------------------------------------------------------------------------------------------------


@one(
    "53_one_slice_of_unspecified_values", note="RescaleType is not the same in all images (HU in 9, US in 1)"
)
def _(ds: Dataset) -> None:
    ds.RescaleType = "US"


changed("53b_intercept_zero", lambda t: replace(t, intercepts=np.zeros(1)), note="check that they are HU")


@each("53c_compressed_with_loss", note="compressed with loss (files: 10)")
def _(ds: Dataset) -> None:
    ds.LossyImageCompression = "01"


@one("53d_text_in_the_pixels", note="Text is burned into the pixels (files: 1)")
def _(ds: Dataset) -> None:
    ds.BurnedInAnnotation = "YES"


# Several volumes, and strays ----------------------------------------------------------------------------


@hazard("54_two_volumes_told_apart_by_number")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    later = replace(truth, stored=truth.stored[:, ::-1])
    slices = [*truth.datasets(), *later.datasets()]
    for k, ds in enumerate(slices):
        ds.SOPInstanceUID, ds.InstanceNumber = uid("number", k), 1 + k
    write_all(slices, folder)
    return [truth, later]


@hazard("54b_two_volumes_numbered_place_by_place", "dicom-two-images-at-one-place")
def _(truth: Synthetic, folder: Path) -> None:
    slices = [*truth.datasets(), *replace(truth, stored=truth.stored[:, ::-1]).datasets()]
    for k, ds in enumerate(slices):
        count = len(truth.stored)
        ds.SOPInstanceUID, ds.InstanceNumber = uid("number", k), 1 + 2 * (k % count) + k // count
    write_all(slices, folder)


@hazard("55_stray_secondary_capture")
def _(truth: Synthetic, folder: Path) -> None:
    capture = copy.deepcopy(truth.datasets()[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = uid("capture")
    capture.ImageType = ["DERIVED", "SECONDARY"]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(capture, keyword)
    set_pixels(capture, np.zeros((64, 64), int))
    write_all([*truth.datasets(), capture], folder)
