"""Ways in which the images of a DICOM folder can mislead a reader, and the right answer to each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from tests.studies.dicom.encoding import save
from tests.studies.dicom.synthetic import Synthetic, set_pixels, uid

Write = Callable[[Synthetic, Path], "list[Synthetic] | None"]
ODD = 4  # the slice that is tampered with; the last one is, where a gap would give it away


@dataclass(frozen=True)
class Hazard:
    """One folder to write.

    Parameters
    ----------
    write
        Writes the files of a series to a folder, and returns what the volumes must be when that is not
        the series itself.
    refusal
        Code of the error that is the right answer (or codes, with a bar), ``""`` when it is a volume.
    note
        What a note of the reader must contain; where it is empty, there must be no note.
    """

    write: Write
    refusal: str = ""
    note: str = ""


HAZARDS: dict[str, Hazard] = {}


def hazard(name: str, refusal: str = "", **more: str) -> Callable[[Write], Write]:
    def register(write: Write) -> Write:
        HAZARDS[name] = Hazard(write, refusal, **more)
        return write

    return register


def write_all(slices: list[Dataset], folder: Path) -> None:
    for k, ds in enumerate(slices):
        save(ds, folder / f"IM{k:04d}.dcm")


def each(name: str, refusal: str = "", note: str = "") -> Callable[[Callable[[Dataset], None]], None]:
    """A hazard that changes the header of every slice."""

    def register(change: Callable[[Dataset], None]) -> None:
        def write(truth: Synthetic, folder: Path) -> None:
            slices = truth.datasets()
            for ds in slices:
                change(ds)
            write_all(slices, folder)

        HAZARDS[name] = Hazard(write, refusal, note)

    return register


def one(
    name: str, refusal: str = "", which: int = ODD, note: str = ""
) -> Callable[[Callable[[Dataset], None]], None]:
    """A hazard that changes one slice."""

    def register(change: Callable[[Dataset], None]) -> None:
        def write(truth: Synthetic, folder: Path) -> None:
            slices = truth.datasets()
            change(slices[which])
            write_all(slices, folder)

        HAZARDS[name] = Hazard(write, refusal, note)

    return register


def changed(name: str, change: Callable[[Synthetic], Synthetic], **more: str) -> None:
    """A hazard in which the series is a different one, and that one is right."""

    def write(truth: Synthetic, folder: Path) -> list[Synthetic]:
        new = change(truth)
        write_all(new.datasets(), folder)
        return [new]

    HAZARDS[name] = Hazard(write, **more)


# Names, order and numbers -------------------------------------------------------------------------------


@hazard("01_base")
def _(truth: Synthetic, folder: Path) -> None:
    write_all(truth.datasets(), folder)


@hazard("02_shuffled_names")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    write_all([slices[i] for i in np.random.default_rng(1).permutation(len(slices))], folder)


@hazard("03_instancenumber_shuffled")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    for ds, number in zip(slices, np.random.default_rng(2).permutation(len(slices)), strict=True):
        ds.InstanceNumber = int(number)
    write_all(slices, folder)


@each("03b_no_instancenumber")
def _(ds: Dataset) -> None:
    del ds.InstanceNumber


@hazard("38_nested_dirs")
def _(truth: Synthetic, folder: Path) -> None:
    for k, ds in enumerate(truth.datasets()):
        save(ds, folder / f"a{k % 3}" / f"b{k % 2}" / f"IM{k // 6}")


@hazard("30_junk_files")
def _(truth: Synthetic, folder: Path) -> None:
    write_all(truth.datasets(), folder)
    (folder / "readme.txt").write_text("not an image")
    (folder / "empty.dcm").touch()
    (folder / "Thumbs.db").write_bytes(bytes(range(256)) * 8)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(200))


@hazard("36_bad_charset_unicode_path_ü王")
def _(truth: Synthetic, folder: Path) -> None:
    for k, ds in enumerate(truth.datasets()):
        ds.SpecificCharacterSet = "ISO_IR 999"
        ds.PatientName = "Phantom^Anna"
        save(ds, folder / "ü王 x" / f"ü{k}.dcm")


# Slices missing, repeated, strange ----------------------------------------------------------------------


@hazard("04_missing_slice", "dicom-missing-slice")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    del slices[ODD]
    write_all(slices, folder)


@hazard("06_dup_file_same_uid")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    write_all([*slices, slices[ODD]], folder)


@hazard("07_dup_position_diff_uid", "dicom-two-images-at-one-place")
def _(truth: Synthetic, folder: Path) -> None:
    slices = truth.datasets()
    twin = copy.deepcopy(slices[ODD])
    twin.SOPInstanceUID = uid("twin")
    set_pixels(twin, truth.stored[ODD][::-1])
    write_all([*slices, twin], folder)


@hazard("08_two_series")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    other = replace(truth, stored=truth.stored[:7, ::-1], positions=truth.positions[:7] + np.array([0, 0, 1]))
    other.header = copy.deepcopy(truth.header)
    other.header.SeriesInstanceUID = uid("other series")
    write_all([*truth.datasets(), *other.datasets()], folder)
    return [truth, other]


@hazard("09_two_timepoints_one_series")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    later = replace(truth, stored=truth.stored[:, ::-1])
    slices = [*truth.datasets(), *later.datasets()]
    for k, ds in enumerate(slices):
        ds.SOPInstanceUID = uid("time", k)
        ds.AcquisitionNumber = 1 + k // len(truth.stored)
    write_all(slices, folder)
    return [truth, later]


@hazard("10_localizer_in_series")
def _(truth: Synthetic, folder: Path) -> None:
    scout = truth.datasets()[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    scout.SOPInstanceUID = uid("scout")
    write_all([*truth.datasets(), scout], folder)


@hazard("11_nonuniform", "dicom-uneven-spacing")
def _(truth: Synthetic, folder: Path) -> None:
    positions = truth.positions.copy()
    positions[ODD:, 2] -= 0.5 * np.arange(len(positions) - ODD)
    write_all(replace(truth, positions=positions).datasets(), folder)


@one("37_one_slice_other_size", "dicom-mixed-geometry", which=-1)
def _(ds: Dataset) -> None:
    set_pixels(ds, np.full((ds.Rows // 2, ds.Columns // 2), 7))


@one("37b_one_slice_other_spacing", "dicom-mixed-geometry", which=-1)
def _(ds: Dataset) -> None:
    ds.PixelSpacing = [0.5, 0.5]


@one("37c_one_slice_rotated180", "dicom-mixed-geometry", which=-1)
def _(ds: Dataset) -> None:
    ds.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


@one("37d_one_slice_other_FoR", "dicom-mixed-series", which=-1)
def _(ds: Dataset) -> None:
    ds.FrameOfReferenceUID = uid("another frame")


@one("37e_one_slice_other_patient", "dicom-mixed-series", which=-1)
def _(ds: Dataset) -> None:
    ds.PatientID = "SOMEONE-ELSE"


# Geometry -----------------------------------------------------------------------------------------------


def rotated(truth: Synthetic, row: list[float], column: list[float]) -> Synthetic:
    """The same slices stacked along the normal of another orientation."""
    row, column = np.array(row) / np.linalg.norm(row), np.array(column) / np.linalg.norm(column)
    steps = -2.0 * np.arange(len(truth.stored))[:, None]
    positions = np.array([-20.0, 30, 40]) + steps * np.cross(row, column)
    return replace(truth, orientation=np.concatenate([row, column]), positions=positions)


def moved(truth: Synthetic, axis: int, step: float) -> Synthetic:
    """Each slice further along one in-plane axis than the one before."""
    positions = truth.positions.copy()
    positions[:, axis] += step * np.arange(len(positions))
    return replace(truth, positions=positions)


changed(
    "12_jitter_5um",
    lambda t: replace(
        t, positions=t.positions + np.random.default_rng(3).uniform(-0.005, 0.005, t.positions.shape)
    ),
)
changed("13_gantry_tilt", lambda t: moved(t, 1, 0.6), refusal="dicom-gantry-tilt")
changed("42_sheared_positions_x", lambda t: moved(t, 0, 0.5), refusal="dicom-gantry-tilt")
changed("17_anisotropic_pixels", lambda t: replace(t, spacing=(0.5, 1.25)))
changed("18_sagittal", lambda t: rotated(t, [0, 1, 0], [0, 0, -1]))
changed("18b_oblique", lambda t: rotated(t, [1, 0.2, -0.1], [-0.2, 1, 0.0]))
changed("40_single_slice", lambda t: replace(t, stored=t.stored[:1], positions=t.positions[:1]))
changed("41_reversed_z", lambda t: replace(t, stored=t.stored[::-1], positions=t.positions[::-1]))


@one("32_missing_ipp_one", "dicom-missing-attribute")
def _(ds: Dataset) -> None:
    del ds.ImagePositionPatient


@each("32b_missing_ipp_all", "dicom-missing-attribute")
def _(ds: Dataset) -> None:
    del ds.ImagePositionPatient


@each("32c_missing_iop_all", "dicom-missing-attribute")
def _(ds: Dataset) -> None:
    del ds.ImageOrientationPatient


@each("32d_missing_pixelspacing_all", "dicom-missing-attribute")
def _(ds: Dataset) -> None:
    del ds.PixelSpacing


@each("32h_empty_pixelspacing", "dicom-missing-attribute")
def _(ds: Dataset) -> None:
    ds.PixelSpacing = None


def raw_number(ds: Dataset, keyword: str, text: str) -> None:
    """Put a text in a numeric attribute that pydicom would not let stand there."""
    ds[keyword] = copy.copy(ds[keyword])
    ds.add_new(keyword, "LO", text)


@each("34_spacing_garbage_text", "dicom-bad-value")
def _(ds: Dataset) -> None:
    raw_number(ds, "PixelSpacing", "abc\\def")


@each("34b_spacing_decimal_comma", "dicom-bad-value")
def _(ds: Dataset) -> None:
    raw_number(ds, "PixelSpacing", "0,9765625\\0,9765625")


@each("34c_spacing_zero", "dicom-bad-spacing")
def _(ds: Dataset) -> None:
    ds.PixelSpacing = [0, 0]


@each("34d_spacing_negative", "dicom-bad-spacing")
def _(ds: Dataset) -> None:
    ds.PixelSpacing = [-0.9765625, -0.9765625]


@each("34g_ds_over16chars")
def _(ds: Dataset) -> None:
    raw_number(ds, "PixelSpacing", "0.97656250000000000000\\0.97656250000000000000")


@each("34h_iop_not_unit", "dicom-bad-orientation")
def _(ds: Dataset) -> None:
    ds.ImageOrientationPatient = [2, 0, 0, 0, 2, 0]


@each("34i_iop_zero", "dicom-bad-orientation")
def _(ds: Dataset) -> None:
    ds.ImageOrientationPatient = [0, 0, 0, 0, 0, 0]


# Values -------------------------------------------------------------------------------------------------


@hazard("14_per_slice_slope_PET")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    count = len(truth.stored)
    pet = replace(truth, slopes=0.5 + 0.125 * np.arange(count), intercepts=np.zeros(1))
    slices = pet.datasets()
    for ds in slices:
        ds.Modality, ds.Units = "PT", "BQML"
    write_all(slices, folder)
    return [pet]


changed(
    "14b_one_slice_intercept",
    lambda t: replace(t, intercepts=np.where(np.arange(len(t.stored)) == ODD, -1000.0, -1024.0)),
)
changed("15_signed", lambda t: replace(t, stored=t.stored - 1024, intercepts=np.zeros(1)))


@each("16_monochrome1")
def _(ds: Dataset) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"


@hazard("32f_missing_rescale_all")
def _(truth: Synthetic, folder: Path) -> list[Synthetic]:
    raw = replace(truth, intercepts=np.zeros(1))
    slices = raw.datasets()
    for ds in slices:
        del ds.RescaleSlope, ds.RescaleIntercept
    write_all(slices, folder)
    return [raw]


@each("34e_slope_nan", "dicom-bad-value")
def _(ds: Dataset) -> None:
    raw_number(ds, "RescaleSlope", "nan")


@each("34f_slope_zero", "dicom-bad-rescale")
def _(ds: Dataset) -> None:
    ds.RescaleSlope = 0


@each("39_bits_above_bitsstored", note="Bits above the 12 of BitsStored")
def _(ds: Dataset) -> None:
    stored = np.frombuffer(ds.PixelData, "<u2") | 0xA000
    ds.PixelData = stored.tobytes()


@one("32e_missing_pixeldata_one", "dicom-damaged-file", which=-1)
def _(ds: Dataset) -> None:
    del ds.PixelData


@one("32g_missing_rows_one", "dicom-missing-attribute", which=-1)
def _(ds: Dataset) -> None:
    del ds.Rows


@each("33_empty_sopclass")
def _(ds: Dataset) -> None:
    ds.SOPClassUID = ds.SOPInstanceUID = ds.SeriesInstanceUID = ds.StudyInstanceUID = ""
