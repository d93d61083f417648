"""The test of whether a file is DICOM, by its first bytes; a separate module, which does not need pydicom."""

from __future__ import annotations

from pathlib import Path

LONGEST_FIRST_ELEMENT = 2**16  # bytes; a data set begins with a short identifying element


def starts_as_dicom(path: Path) -> bool:
    """Whether a file has the preamble of DICOM (PS3.10), or begins as a data set without one does.

    Such a data set begins with an element of group 0002, or one of the first of group 0008, in little endian:
    explicit, with two capitals as value representation, or implicit, with a short length.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    group, element = start[:2], int.from_bytes(start[2:4], "little")
    if len(start) < 8 or group not in (b"\2\0", b"\x08\0") or element > 0x18:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= LONGEST_FIRST_ELEMENT
