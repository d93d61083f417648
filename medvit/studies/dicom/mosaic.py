"""Siemens mosaics: one large image in which the slices of a volume lie side by side."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom.headers import CSA_CREATOR, CSA_IMAGE_HEADER, Header
from medvit.studies.dicom.planes import Plane, single_plane


def planes(header: Header) -> list[Plane]:
    """One plane for each tile that holds a slice.

    ImagePositionPatient of a mosaic is the corner of an image of the size of the whole mosaic and with the
    centre of the first slice. The private CSA header gives the number of slices and the direction in which
    they follow each other.

    Raises
    ------
    StudyError
        If the CSA header is missing or does not fit the image.
    """
    csa = _csa_fields(header)
    count, normal = _single_int(csa.get("NumberOfImagesInMosaic")), csa.get("SliceNormalVector", ())
    whole = single_plane(header)
    across = math.ceil(math.sqrt(count)) if count else 0
    if not count or len(normal) < 3 or whole.shape[0] % across or whole.shape[1] % across:
        raise _refusal(header, "the mosaic does not say how to split it")
    if whole.thickness is None:
        raise header.fault("dicom-missing-attribute", "the value is missing", "SpacingBetweenSlices")
    rows, columns = whole.shape[0] // across, whole.shape[1] // across
    direction = np.array([float(v) for v in normal[:3]])
    if not np.isclose(abs(direction @ whole.normal), 1, atol=1e-3):
        raise _refusal(header, "the mosaic's slice direction is not across its images")
    step = math.copysign(whole.thickness, direction @ whole.normal) * whole.normal
    first = whole.position + _margin(whole, rows, columns)
    return [
        replace(
            whole,
            shape=(rows, columns),
            position=first + index * step,
            corner=(index // across * rows, index % across * columns),
        )
        for index in range(count)
    ]


def _margin(whole: Plane, rows: int, columns: int) -> np.ndarray:
    along_columns = (whole.shape[1] - columns) / 2 * whole.spacing[1] * whole.orientation[:3]
    along_rows = (whole.shape[0] - rows) / 2 * whole.spacing[0] * whole.orientation[3:]
    return along_columns + along_rows


def _refusal(header: Header, what: str) -> StudyError:
    return StudyError(
        "dicom-mosaic", what, path=header.path, tag="CSA image header (0029,1010)",
        do="convert the series with dcm2niix",
    )  # fmt: skip


def _single_int(values: tuple[str, ...] | None) -> int:
    return int(values[0]) if values and values[0].isdigit() else 0


def _csa_fields(header: Header) -> dict[str, tuple[str, ...]]:
    """The fields of the CSA image header: a count, then for each a name and its values as text."""
    creator = header.dataset.get(CSA_CREATOR)
    element = header.dataset.get(CSA_IMAGE_HEADER)
    data = bytes(element.value or b"") if element is not None else b""
    if creator is None or "SIEMENS CSA" not in str(creator.value) or data[:4] != b"SV10":
        raise _refusal(header, "the mosaic lacks the private header that says how to split it")
    fields = {}
    try:
        offset, (count,) = 16, struct.unpack_from("<I", data, 8)
        for _ in range(min(count, 1024)):
            name = data[offset : offset + 64].split(b"\0")[0].decode("ascii")
            (items,) = struct.unpack_from("<i", data, offset + 76)
            offset += 84
            values = []
            for _ in range(items):
                (length,) = struct.unpack_from("<i", data, offset + 4)
                if length < 0:
                    raise ValueError("negative length")
                raw = data[offset + 16 : offset + 16 + length]
                values.append(raw.split(b"\0")[0].decode("ascii").strip())
                offset += 16 + (length + 3) // 4 * 4
            fields[name] = tuple(v for v in values if v)
        return fields
    except (struct.error, ValueError) as error:
        raise _refusal(header, "the mosaic's private header is damaged") from error
