"""De-identification of DICOM images (PS3.15 Annex E, Basic Profile): what is not known to be safe goes."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_keyword, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from medvit.errors import MedvitError, StudyError
from medvit.studies.dicom_out.common import save_dicom

_DATES = {"DA", "DT", "TM"}
# Free text, names and whatever may hold either. UN is what a writer did not understand.
_UNSAFE = {
    *["AE", "AS", "LO", "LT", "OB", "OW", "OF", "OD", "OL", "OV", "PN", "SH", "ST", "UC", "UN", "UR", "UT"],
    "OB or OW",
}
_DUMMY = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
# Secondary captures, ultrasound, video and endoscopy show text in their pixels more often than not.
_SCREENS = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.", "1.2.840.10008.5.1.4.1.1.3.",
            "1.2.840.10008.5.1.4.1.1.77.1.1")  # fmt: skip
_DOCUMENTS = ("EncapsulatedDocument", "ContentSequence", "GraphicAnnotationSequence", "WaveformSequence")


@dataclass(frozen=True)
class Profile:
    """How to de-identify.

    Parameters
    ----------
    secret
        Decides pseudonyms, new UIDs and date shifts. The same secret gives the same ones, so that further
        studies of a patient fit; once it is thrown away nobody can go back. Default: a new one.
    dates
        ``"remove"``: the Basic Profile. ``"shift"``: by the same number of days for all studies of a
        patient, 1 to 10 years back, times of day kept (Retain Longitudinal Temporal Information with
        Modified Dates Option).
    keep_characteristics
        Keep age, sex, size and weight, which SUV needs (Retain Patient Characteristics Option).
    allow_screens
        Take images that may show text in their pixels; these are refused otherwise.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    dates: Literal["remove", "shift"] = "remove"
    keep_characteristics: bool = False
    allow_screens: bool = False

    def digest(self, *what: str) -> bytes:
        """32 bytes that follow from the secret and `what`."""
        return hmac.new(self.secret, "\0".join(what).encode(), hashlib.sha256).digest()

    def uid(self, old: str) -> UID:
        """The new UID for an old one; UIDs that DICOM itself defines stay."""
        if not old or old.startswith("1.2.840.10008."):
            return UID(old)
        # A UUID-derived UID, PS3.5 B.2.
        return UID(f"2.25.{int.from_bytes(self.digest('uid', old)[:16], 'big')}")


@dataclass(frozen=True)
class Deidentified:
    """What `deidentify_folder` did.

    Parameters
    ----------
    files
        Written.
    left_out
        Read but not written, and why. These paths may name patients: show them to whoever has the
        originals, and put them in no log.
    """

    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def deidentify(dataset: Dataset, profile: Profile) -> Dataset:
    """A copy of an image without what could identify a person. Pixels stay as they are, faces included.

    Private attributes, unknown ones, overlays, names and free text go; UIDs and the patient's name and ID
    are replaced; code sequences of local coding schemes go; nested items and file meta information too.

    Raises
    ------
    StudyError
        If the object is a document, or its pixels may show text (unless the profile allows it).
    """
    meta = getattr(dataset, "file_meta", Dataset())
    # Files are found that hold these two in their file meta information alone.
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    instance = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID")
    if not (sop_class and instance and meta.get("TransferSyntaxUID")) or "DirectoryRecordSequence" in dataset:
        raise StudyError("deidentify-not-an-image", "is not a complete DICOM image", do="leave it out")
    _refuse_documents_and_screens(dataset, str(sop_class), profile)
    known = (dataset.get(k) for k in ("PatientID", "PatientName", "StudyInstanceUID"))
    patient = next((str(value) for value in known if value), "")
    days = 365 + int.from_bytes(profile.digest("days", patient)[:4], "big") % 3285
    with warnings.catch_warnings():
        # pydicom's warnings quote the values that they are about.
        warnings.simplefilter("ignore")
        result = _clean(dataset, profile, timedelta(days=days))
    result.SOPClassUID, result.SOPInstanceUID = sop_class, profile.uid(instance)
    # What nobody is named in needs no pseudonym, and one for each file would part a series.
    pseudonym = f"anon-{profile.digest('patient', patient).hex()[:12]}" if patient else ""
    result.PatientName = result.PatientID = pseudonym
    result.SpecificCharacterSet = "ISO_IR 192"
    _state_method(result, profile)
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = meta.TransferSyntaxUID
    return result


def deidentify_folder(source: Path, target: Path, profile: Profile | None = None) -> Deidentified:
    """De-identify every DICOM image below a folder; see `deidentify_files`.

    Raises
    ------
    MedvitError
        If there is no image that could be written, or `target` lies in `source`.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise MedvitError("the output folder lies in the folder to de-identify; choose another")
    return deidentify_files(sorted(p for p in source.rglob("*") if p.is_file()), target, profile)


def deidentify_files(paths: Sequence[Path], target: Path, profile: Profile | None = None) -> Deidentified:
    """De-identify DICOM images, into one folder a study and series named by hashes.

    Raises
    ------
    MedvitError
        If there is no image that could be written.
    """
    profile = profile or Profile()
    written, left_out = [], []
    for path in paths:
        try:
            result = deidentify(pydicom.dcmread(path), profile)
        except StudyError as error:
            left_out.append((path, error.what))
            continue
        except (InvalidDicomError, EOFError):
            left_out.append((path, "is not DICOM"))
            continue
        levels = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        destination = target.joinpath(*(_name(result.get(k, "")) for k in levels)).with_suffix(".dcm")
        save_dicom(result, destination)
        written.append(destination)
    if not written:
        raise MedvitError(f"none of the {len(left_out)} files is a DICOM image that can be de-identified")
    return Deidentified(tuple(written), tuple(left_out))


@cache
def _table() -> dict[str, Any]:
    table = json.loads((files("medvit.studies") / "deidentify.json").read_text())
    lists = {k: frozenset(v) for k, v in table.items() if isinstance(v, list) and k != "remove_ranges"}
    return lists | {"remove_ranges": [(int(a, 16), int(b, 16)) for a, b in table["remove_ranges"]]}


def _refuse_documents_and_screens(dataset: Dataset, sop_class: str, profile: Profile) -> None:
    if any(keyword in dataset for keyword in _DOCUMENTS):
        what = "is a document, whose content cannot be de-identified"
        raise StudyError("deidentify-document", what, do="make it again from de-identified images")
    burned_in = str(dataset.get("BurnedInAnnotation", ""))
    image_type = dataset.get("ImageType") or []
    screen = "SCREEN SAVE" in image_type or sop_class.startswith(_SCREENS)
    if not profile.allow_screens and (burned_in == "YES" or (screen and burned_in != "NO")):
        what = "may show names in its pixels"
        raise StudyError("deidentify-burned-in", what, do="look at it, and allow it or leave it out")


def _clean(dataset: Dataset, profile: Profile, shift: timedelta) -> Dataset:
    result = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating over elements would decode values that go anyway
        element = _cleaned(dataset, tag, profile, shift)
        if element is not None:
            result[tag] = element
    return result


def _cleaned(dataset: Dataset, tag: Any, profile: Profile, shift: timedelta) -> DataElement | None:
    """The element that takes the place of `dataset[tag]`, ``None`` where there shall be none."""
    table = _table()
    if tag.is_private or any(first <= tag <= last for first, last in table["remove_ranges"]):
        return None
    try:
        keyword, vr = dictionary_keyword(tag), dictionary_VR(tag)
    except KeyError:
        return None
    if keyword in table["remove"]:
        return None
    if keyword in table["characteristics"]:
        # Patient's Sex is of type 2.
        kept = profile.keep_characteristics
        return _copied(dataset, tag) if kept else _blank(keyword == "PatientSex", tag, vr)
    if vr in _DATES and profile.dates == "shift" and keyword != "PatientBirthDate":
        return _shifted(_copied(dataset, tag), vr, shift)
    if keyword in table["empty"]:
        return _blank(True, tag, vr)
    if keyword in table["dummy"]:
        return DataElement(tag, vr, _DUMMY.get(vr, "REMOVED"))
    if keyword in table["keep"]:
        return _copied(dataset, tag)
    if vr in _UNSAFE or vr in _DATES:
        return None
    if vr == "UI":
        return _mapped(_copied(dataset, tag), profile)
    if vr == "SQ":
        return _clean_sequence(_copied(dataset, tag), profile, shift)
    return _copied(dataset, tag)


def _copied(dataset: Dataset, tag: Any) -> DataElement:
    """The element as it is, but for the text that pydicom gives where a value is not what its tag says."""
    try:
        element = copy(dataset[tag])
        if element.VR in ("DS", "IS"):
            np.asarray(element.value or 0, float)
        sound = element.VR not in _UNSAFE or dictionary_VR(tag) in _UNSAFE
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, struct.error):
        sound = False
    if not sound:
        what = "holds a value that is not of its type, and may be anything"
        # Outside of the handler: what pydicom raises quotes the value.
        raise StudyError("deidentify-bad-value", what, tag=dictionary_keyword(tag))
    return element


def _blank(stays: bool, tag: Any, vr: str) -> DataElement | None:
    return DataElement(tag, vr, [] if vr == "SQ" else "") if stays else None


def _mapped(element: DataElement, profile: Profile) -> DataElement:
    old = [element.value] if isinstance(element.value, str) else list(element.value or [])
    return DataElement(element.tag, "UI", [profile.uid(u) for u in old])


def _shifted(element: DataElement, vr: str, shift: timedelta) -> DataElement | None:
    """Dates back by `shift`, times as they are; what cannot be read as a date goes."""
    values = [element.value] if isinstance(element.value, str) else list(element.value or [])
    if vr == "TM":
        return DataElement(element.tag, vr, [_digits(v) for v in values])
    try:
        moved = [(datetime.strptime(v[:8], "%Y%m%d") - shift).strftime("%Y%m%d") for v in values if v]
    except (ValueError, OverflowError):
        return DataElement(element.tag, vr, "")
    rest = [_digits(v[8:]) if vr == "DT" else "" for v in values if v]
    return DataElement(element.tag, vr, [a + b for a, b in zip(moved, rest, strict=True)] or "")


def _digits(text: str) -> str:
    return "".join(c for c in text if c in "0123456789.")


def _clean_sequence(element: DataElement, profile: Profile, shift: timedelta) -> DataElement | None:
    schemes = {str(item.CodingSchemeDesignator) for item in element.value if "CodingSchemeDesignator" in item}
    if schemes - _table()["public_coding_schemes"]:
        # Meanings of local codes are written by the hospital, and may say anything.
        return None
    return DataElement(element.tag, "SQ", [_clean(item, profile, shift) for item in element.value])


def _state_method(result: Dataset, profile: Profile) -> None:
    """PS3.15 E.1.1 and CID 7050: state that and how the identity was removed."""
    methods = [("113100", "Basic Application Confidentiality Profile")]
    if profile.dates == "shift":
        methods.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    if profile.keep_characteristics:
        methods.append(("113108", "Retain Patient Characteristics Option"))
    result.PatientIdentityRemoved = "YES"
    result.LongitudinalTemporalInformationModified = "MODIFIED" if profile.dates == "shift" else "REMOVED"
    result.DeidentificationMethodCodeSequence = [_code(*m) for m in methods]


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _name(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:16]
