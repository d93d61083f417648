"""A file is DICOM by its first bytes, with or without a preamble."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.studies.dicom.sniff import starts_as_dicom

PREAMBLE = b"\0" * 128 + b"DICM"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PREAMBLE, True),
        (PREAMBLE[:-1], False),
        (b"\0" * 127 + b"DICM\0", False),
        # Group 0008, element 0005, explicit: a value representation in capitals.
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", True),
        (b"\x08\0\x05\0cs\x0a\0ISO_IR 100", False),
        # The same element, implicit: four bytes of length.
        (b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100", True),
        (b"\x08\0\x05\0\xff\xff\xff\xffISO_IR 100", False),
        (b"\x02\0\x10\0UI\x12\x001.2.840.10008.1.2", True),
        # An element too far into the group, another group, and too few bytes.
        (b"\x08\0\x20\0DA\x08\x0020260101", False),
        (b"\x10\0\x10\0PN\x04\0Jane", False),
        (b"\x08\0\x05\0CS", False),
        (b"", False),
        (b"\x89PNG\r\n\x1a\n", False),
    ],
)
def test_the_first_bytes_tell(tmp_path: Path, content: bytes, expected: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert starts_as_dicom(file) is expected
