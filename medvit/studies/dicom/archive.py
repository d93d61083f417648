"""Packed and indexed DICOM: a zip, unpacked with distrust, and the files that a DICOMDIR names."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from pydicom.tag import Tag

from medvit.errors import StudyError
from medvit.studies.dicom.headers import LARGE_BYTES, MAX_RATIO, Attributes, NotDicomError, open_dataset

MAX_MEMBERS = 200_000
MAX_UNPACKED_BYTES = 64 * 2**30


def unzip(path: Path, folder: Path, *, limit: int = MAX_UNPACKED_BYTES) -> list[Path]:
    """Unpack a zip of images into an empty folder.

    Parameters
    ----------
    path
        The archive.
    folder
        Folder to unpack to; the members keep their paths below it.
    limit
        Largest total size of the members, in bytes.

    Returns
    -------
    list of Path
        The files, sorted.

    Raises
    ------
    StudyError
        Before anything is written, if a member would leave the folder, is a link or encrypted, or unpacks
        to more than is reasonable; and if a member is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check_members(path, members, limit)
            for member in members:
                _unpack(archive, member, folder.joinpath(*_parts(member.filename)))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise StudyError(
            "zip-damaged", "the zip cannot be unpacked", path=path, do="pack it again"
        ) from error
    return sorted(folder.joinpath(*_parts(m.filename)) for m in members)


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _check_members(path: Path, members: list[zipfile.ZipInfo], limit: int) -> None:
    def refuse(code: str, what: str) -> StudyError:
        return StudyError(code, what, path=path, do="accept it only from a source that you trust")

    if len(members) > MAX_MEMBERS:
        raise refuse("zip-too-large", f"the zip holds {len(members)} files")
    size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if size > limit:
        raise refuse("zip-too-large", f"the zip unpacks to more than {limit / 2**30:.3g} GiB")
    if size > LARGE_BYTES and size > MAX_RATIO * packed:
        raise refuse("zip-too-large", "the zip unpacks to more than images would")
    seen = set()
    for member in members:
        parts = _parts(member.filename)
        if (
            not parts
            or ".." in parts
            or parts[0].startswith("/")
            or ":" in parts[0]
            or "\0" in member.filename
        ):
            raise refuse("zip-unsafe-path", "a file in the zip would be unpacked outside its folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise refuse("zip-unsafe-path", "the zip holds a link")
        if parts in seen:
            raise refuse("zip-unsafe-path", "two files in the zip have one name")
        seen.add(parts)
        if member.flag_bits & 1:
            raise refuse("zip-encrypted", "the zip is encrypted")
        if member.file_size > LARGE_BYTES and member.file_size > MAX_RATIO * member.compress_size:
            raise refuse("zip-too-large", "a file in the zip unpacks to more than an image would")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write one member, and never more than the size that was checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("xb") as out:
        while chunk := source.read(2**20):
            left -= len(chunk)
            if left < 0:
                raise zipfile.BadZipFile("a member is longer than declared")
            out.write(chunk)


def files_of_dicomdir(path: Path) -> list[Path]:
    """The files that a DICOMDIR names, whether they exist or not.

    Parameters
    ----------
    path
        The DICOMDIR file.

    Raises
    ------
    StudyError
        If it cannot be read, or names a file outside its own folder.
    """
    try:
        dataset, _ = open_dataset(path, [Tag("DirectoryRecordSequence")])
    except NotDicomError as error:
        raise StudyError("dicom-damaged-file", f"the DICOMDIR is {error}", path=path) from None
    files = []
    for record in Attributes(dataset, path).items("DirectoryRecordSequence"):
        parts = [part for part in record.text("ReferencedFileID").split("\\") if part]
        if not parts:
            continue
        if any(part == ".." or "/" in part or "\0" in part for part in parts):
            raise record.fault(
                "dicomdir-unsafe-path", "a file outside the folder is named", "ReferencedFileID"
            )
        files.append(path.parent.joinpath(*parts))
    return files
