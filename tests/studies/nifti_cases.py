"""Hazardous NIfTI files: one sound file, patched byte by byte, each with the one right decision about it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (24, 20, 16)
# 16 degrees about x, left-handed in index order, not centred.
COS, SIN = np.cos(np.deg2rad(16)), np.sin(np.deg2rad(16))
AFFINE = np.array(
    [[-1.5, 0, 0, 17.25], [0, 1.25 * COS, -2 * SIN, -12.5], [0, 1.25 * SIN, 2 * COS, 30], [0, 0, 0, 1]]
)
VOXELS = np.random.default_rng(7).integers(-1000, 3000, SHAPE).astype(np.int16)

DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, UNITS, QCODE, SCODE, SROW, MAGIC = (
    40, 70, 76, 108, 112, 123, 252, 254, 280, 344,
)  # fmt: skip


def sound(
    voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, endianness: str = "<", version: int = 1
) -> bytes:
    """A NIfTI file whose sform and qform agree."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(voxels.dtype)
    image = kind(voxels, affine, header)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def patched(*patches: tuple[int, str, tuple], content: bytes | None = None) -> bytes:
    """The sound file with header fields overwritten: offset, struct format and values of each."""
    raw = bytearray(content or sound())
    for offset, form, values in patches:
        struct.pack_into("<" + form, raw, offset, *values)
    return bytes(raw)


@dataclass(frozen=True)
class Case:
    """A hazard: a file, and either the code of its refusal or the voxels and affine it truly holds."""

    name: str
    content: Callable[[], bytes]
    code: str = ""
    tag: str = ""
    voxels: np.ndarray | None = None
    affine: np.ndarray | None = None
    note: str = ""

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.content())
        return path


def _flipped() -> np.ndarray:
    flipped = AFFINE.copy()
    flipped[0] *= -1
    return flipped


def _sheared() -> np.ndarray:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.6
    return sheared


def _srow(affine: np.ndarray) -> tuple[int, str, tuple]:
    return SROW, "12f", tuple(affine[:3].ravel())


def _non_finite() -> np.ndarray:
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3], voxels[4, 5, 6] = np.nan, np.inf
    return voxels


def _rgb() -> bytes:
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nibabel.Nifti1Image(colour, AFFINE).to_bytes()


def _bomb() -> bytes:
    # 1024 x 1024 x 1000 int16 zeros: 2 GB that shrink to 2 MB.
    header = patched((DIM, "8h", (3, 1024, 1024, 1000, 1, 1, 1, 1)))[:352]
    member = gzip.compress(b"\0" * 2**25, 6)
    return gzip.compress(header) + member * 62 + gzip.compress(b"\0" * (1024 * 1024 * 1000 * 2 - 62 * 2**25))


def _tilted(degrees: float) -> np.ndarray:
    """Slices 2 mm apart along a table that a tilted gantry does not stand square to."""
    affine = np.diag([-1.5, 1.25, 2.0, 1.0])
    affine[1, 2] = -2 * np.tan(np.deg2rad(degrees))
    return affine


def _tilted_file(degrees: float, along: str) -> bytes:
    """The sheared sform beside a qform whose spacing is measured along the table, or across the slices."""
    step = float(np.linalg.norm(_tilted(degrees)[:3, 2])) if along == "along" else 2.0
    content = sound(affine=np.diag([-1.5, 1.25, step, 1.0]))
    return patched(_srow(_tilted(degrees)), content=content)


ONE = (SCODE, "h", (0,))
HALF = gzip.compress(sound())
ZERO_PIXDIM = (PIXDIM + 4, "3f", (0, 0, 0))

CASES = (
    Case("n01_base.nii", sound),
    Case("n01g_base.nii.gz", lambda: gzip.compress(sound())),
    Case("n02_sq_disagree_flip.nii", lambda: patched(_srow(_flipped())), "nifti-sform-qform", "sform_code"),
    Case("n03_sform0_qform1.nii", lambda: patched(ONE)),
    Case(
        "n04_both_codes_0.nii", lambda: patched((QCODE, "2h", (0, 0))), "nifti-no-orientation", "qform_code"
    ),
    Case("n05_pixdim_zero.nii", lambda: patched(ZERO_PIXDIM), note="left aside"),
    Case("n05b_pixdim_zero_qform_only.nii", lambda: patched(ZERO_PIXDIM, ONE), "nifti-qform", "pixdim"),
    Case("n05c_pixdim_negative.nii", lambda: patched((PIXDIM + 4, "f", (-1.5,))), note="left aside"),
    Case("n06_slope0.nii", lambda: patched((SLOPE, "2f", (0, 7)))),
    Case("n06b_slope_nan.nii", lambda: patched((SLOPE, "2f", (np.nan, 0))), "nifti-scaling", "scl_slope"),
    Case("n06c_slope2_inter5.nii", lambda: patched((SLOPE, "2f", (2, 5))), voxels=VOXELS * 2.0 + 5),
    Case("n06d_slope_inf.nii", lambda: patched((SLOPE, "2f", (np.inf, 0))), "nifti-scaling", "scl_slope"),
    Case("n07_nan_inf_voxels.nii", lambda: sound(_non_finite()), "nifti-non-finite"),
    Case("n08_4d_1vol.nii", lambda: sound(VOXELS[..., None])),
    Case("n08b_4d_2vol.nii", lambda: sound(np.stack([VOXELS, VOXELS], -1)), "nifti-4d", "dim"),
    Case("n09_rgb24.nii", _rgb, "nifti-datatype", "datatype"),
    Case("n09b_complex64.nii", lambda: sound(VOXELS.astype(np.complex64)), "nifti-datatype", "datatype"),
    Case("n09c_float64.nii", lambda: sound(VOXELS.astype(np.float64) / 3), voxels=VOXELS / 3),
    Case("n09d_int64.nii", lambda: sound(VOXELS.astype(np.int64) * 1000), voxels=VOXELS * 1000.0),
    Case("n10_big_endian.nii", lambda: sound(endianness=">")),
    Case("n11_trunc_gz.nii.gz", lambda: HALF[: len(HALF) * 6 // 10], "nifti-truncated"),
    Case("n11b_trunc_nii.nii", lambda: sound()[:9427], "nifti-truncated", "dim"),
    Case("n12_bad_magic.nii", lambda: patched((MAGIC, "4s", (b"abc\0",))), "nifti-magic", "magic"),
    Case("n12b_bad_sizeof_hdr.nii", lambda: patched((0, "i", (347,))), "nifti-sizeof-hdr", "sizeof_hdr"),
    Case("n13_shear_sform.nii", lambda: patched(_srow(_sheared())), affine=_sheared(), note="right angles"),
    *(
        Case(
            f"n13_tilted_{degrees}_{along}.nii",
            lambda degrees=degrees, along=along: _tilted_file(degrees, along),
            affine=_tilted(degrees),
            note="right angles",
        )
        for degrees in (9, 25)
        for along in ("along", "across")
    ),
    Case(
        "n13_other_scale.nii",
        lambda: patched(_srow(AFFINE * [1, 1, 1.1, 1])),
        "nifti-sform-qform",
        "sform_code",
    ),
    Case("n14_other_handed.nii", lambda: sound(affine=_flipped()), affine=_flipped()),
    Case(
        "n15_singular_sform.nii",
        lambda: patched(_srow(np.where(np.arange(4) == 2, 0, AFFINE))),
        "nifti-sform",
        "srow",
    ),
    Case("n15b_nan_sform.nii", lambda: patched((SROW, "f", (np.nan,))), "nifti-sform", "srow"),
    Case("n16_dim_huge.nii", lambda: patched((DIM, "4h", (3, 32767, 32767, 32767))), "nifti-dim", "dim"),
    Case("n16b_dim_zero.nii", lambda: patched((DIM, "2h", (3, 0))), "nifti-dim", "dim"),
    Case("n16c_dim_neg.nii", lambda: patched((DIM, "2h", (3, -24))), "nifti-dim", "dim"),
    Case(
        "n17_vox_offset_past_end.nii",
        lambda: patched((VOX_OFFSET, "f", (100_000,))),
        "nifti-truncated",
        "vox_offset",
    ),
    Case("n17b_vox_offset_0.nii", lambda: patched((VOX_OFFSET, "f", (0,))), "nifti-vox-offset", "vox_offset"),
    Case("n18_units_micron.nii", lambda: patched((UNITS, "B", (3,))), "nifti-units", "xyzt_units"),
    Case("n18b_units_meter.nii", lambda: patched((UNITS, "B", (1,))), "nifti-units", "xyzt_units"),
    Case("n19_gz_bomb_2GB.nii.gz", _bomb, "nifti-gzip-bomb", "dim"),
    Case(
        "n19b_gz_trailing_bomb.nii.gz",
        lambda: gzip.compress(sound() + b"\0" * 2**28, 1),
        "nifti-wrong-length",
        "dim",
    ),
    Case("n20_gzext_not_gz.nii.gz", sound),
    Case("n21_empty.nii", lambda: b"", "nifti-truncated"),
)


def put(folder: Path, *names: str) -> list[Path]:
    """Sound files of these names."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound())
    return paths
