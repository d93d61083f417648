"""Removal of what could identify a person, attribute by attribute, nested items included."""

from __future__ import annotations

import json
import re
import struct
import warnings
from copy import copy
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_keyword, dictionary_VR
from pydicom.dataset import FileMetaDataset

from medvit.errors import StudyError
from medvit.studies.deidentification.pixels import without_hidden_text
from medvit.studies.deidentification.profile import Profile
from medvit.studies.deidentification.terms import is_term, is_trade, meaning_of, structure_names

_DATES = {"DA", "DT", "TM"}
# Free text, names, and whatever may hold either. UN marks what a writer did not understand.
_UNSAFE = {
    *["AE", "AS", "LO", "LT", "OB", "OW", "OF", "OD", "OL", "OV", "PN", "SH", "ST", "UC", "UN", "UR", "UT"],
    "OB or OW",
}
_DUMMY = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
# Secondary captures, ultrasound, video and endoscopy show text in their pixels more often than not.
_SCREENS = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.", "1.2.840.10008.5.1.4.1.1.3.",
            "1.2.840.10008.5.1.4.1.1.77.1.1")  # fmt: skip
_CODED = ("CodingSchemeDesignator", "CodeValue", "CodeMeaning", "LongCodeValue", "URNCodeValue")
_DOCUMENTS = ("EncapsulatedDocument", "ContentSequence", "GraphicAnnotationSequence", "WaveformSequence")


def deidentify(dataset: Dataset, profile: Profile) -> Dataset:
    """A copy of an image without what could identify a person; what the pixels show stays, even faces.

    Removed are private and unknown attributes, overlays, names, text that does not consist of terms of the
    standard or technical words, and bytes hidden beside the pixels. UIDs and the patient's name and ID are
    replaced. Code sequences stay only if their codes are in the standard, and take its meanings. All this
    applies to nested items and to the file meta information as well.

    Raises
    ------
    StudyError
        If the object is a document, its pixels may show text (unless the profile allows it), or its pixels
        cannot be told from what may be hidden beside them.
    """
    meta = getattr(dataset, "file_meta", Dataset())
    # Some files hold these two only in their file meta information.
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    instance = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID")
    if not (sop_class and instance and meta.get("TransferSyntaxUID")) or "DirectoryRecordSequence" in dataset:
        raise StudyError("deidentify-not-an-image", "is not a complete DICOM image", do="leave it out")
    _refuse_documents_and_screens(dataset, str(sop_class), profile)
    known = (dataset.get(k) for k in ("PatientID", "PatientName", "StudyInstanceUID"))
    patient = next((str(value) for value in known if value), "")
    days = 365 + int.from_bytes(profile.digest("days", patient)[:4], "big") % 3285
    with warnings.catch_warnings():
        # pydicom's warnings quote the values that they concern.
        warnings.simplefilter("ignore")
        result = _clean(dataset, profile, timedelta(days=days))
    result.SOPClassUID, result.SOPInstanceUID = sop_class, profile.uid(instance)
    # Without a name no pseudonym is needed, and one for each file would split a series.
    pseudonym = f"anon-{profile.digest('patient', patient).hex()[:12]}" if patient else ""
    result.PatientName = result.PatientID = pseudonym
    result.SpecificCharacterSet = "ISO_IR 192"
    _state_method(result, profile)
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = meta.TransferSyntaxUID
    if "PixelData" in result:
        without_hidden_text(result)
    return result


@cache
def _table() -> dict[str, Any]:
    table = json.loads((files("medvit.studies.deidentification") / "attributes.json").read_text())
    lists = {k: frozenset(v) for k, v in table.items() if isinstance(v, list) and k != "remove_ranges"}
    return lists | {"remove_ranges": [(int(a, 16), int(b, 16)) for a, b in table["remove_ranges"]]}


def _refuse_documents_and_screens(dataset: Dataset, sop_class: str, profile: Profile) -> None:
    if any(keyword in dataset for keyword in _DOCUMENTS):
        what = "is a document, whose content cannot be de-identified"
        raise StudyError("deidentify-document", what, do="create it again from de-identified images")
    burned_in = str(dataset.get("BurnedInAnnotation", ""))
    image_type = dataset.get("ImageType") or []
    screen = "SCREEN SAVE" in image_type or sop_class.startswith(_SCREENS)
    if not profile.allow_screens and (burned_in == "YES" or (screen and burned_in != "NO")):
        what = "may show names in its pixels"
        raise StudyError("deidentify-burned-in", what, do="look at it, and either allow it or leave it out")


def _clean(dataset: Dataset, profile: Profile, shift: timedelta) -> Dataset:
    result = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating over elements would decode values that go anyway
        element = _cleaned(dataset, tag, profile, shift)
        if element is not None:
            result[tag] = element
    if "CodeMeaning" in result:
        scheme, value = str(result.get("CodingSchemeDesignator")), str(result.get("CodeValue"))
        result.CodeMeaning = meaning_of(scheme, value)
    return result


def _cleaned(dataset: Dataset, tag: Any, profile: Profile, shift: timedelta) -> DataElement | None:
    """The element that replaces `dataset[tag]`; ``None`` to remove it."""
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
        return _characteristic(dataset, tag, keyword, vr, profile)
    if vr in _DATES and profile.dates == "shift" and keyword != "PatientBirthDate":
        return _shifted(_copied(dataset, tag), vr, shift)
    if keyword in table["empty"]:
        return _blank(True, tag, vr)
    if keyword in table["dummy"]:
        return DataElement(tag, vr, _DUMMY.get(vr, "REMOVED"))
    if keyword in table["trade"]:
        return _trade(_copied(dataset, tag), keyword)
    if keyword in table["keep"]:
        return _copied(dataset, tag)
    if vr in _UNSAFE or vr in _DATES:
        return None
    if vr == "CS":
        return _terms(_copied(dataset, tag), keyword)
    if vr == "UI":
        return _mapped(_copied(dataset, tag), profile)
    if vr == "SQ":
        return _clean_sequence(_copied(dataset, tag), profile, shift)
    return _copied(dataset, tag)


def _copied(dataset: Dataset, tag: Any) -> DataElement:
    """The element itself, unless pydicom gives text where the tag requires another type."""
    try:
        element = copy(dataset[tag])
        if element.VR in ("DS", "IS"):
            np.asarray(element.value or 0, float)
        sound = element.VR not in _UNSAFE or dictionary_VR(tag) in _UNSAFE
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, struct.error):
        sound = False
    if not sound:
        what = "holds a value of the wrong type, which may be anything"
        # Outside the handler, because pydicom's exception quotes the value.
        raise StudyError("deidentify-bad-value", what, tag=dictionary_keyword(tag))
    return element


def _values(element: DataElement) -> list[str]:
    value = element.value
    return [] if value in (None, "") else [value] if isinstance(value, str) else [str(v) for v in value]


def _blank(stays: bool, tag: Any, vr: str) -> DataElement | None:
    return DataElement(tag, vr, [] if vr == "SQ" else "") if stays else None


def _characteristic(
    dataset: Dataset, tag: Any, keyword: str, vr: str, profile: Profile
) -> DataElement | None:
    """Age, sex, size and weight if they are to be kept; Patient's Sex is of type 2."""
    if not profile.keep_characteristics:
        return _blank(keyword == "PatientSex", tag, vr)
    element = _copied(dataset, tag)
    if vr == "AS" and not re.fullmatch(r"\d{3}[DWMY]|", str(element.value or "")):
        return None
    return _terms(element, keyword) if vr == "CS" else element


def _terms(element: DataElement, keyword: str) -> DataElement | None:
    """The values of a coded string that are defined terms; without any, the least that is required."""
    kept = [value for value in _values(element) if is_term(value)]
    if keyword == "ImageType" and len(kept) < 2:
        kept = ["DERIVED", "SECONDARY"]
    if not kept:
        stands_empty = keyword in _table()["empty_codes"] or not _values(element)
        return _blank(stands_empty, element.tag, "CS")
    return DataElement(element.tag, "CS", kept if len(kept) > 1 else kept[0])


def _trade(element: DataElement, keyword: str) -> DataElement | None:
    """A text of technical words; otherwise the least that the attribute requires."""
    values = _values(element)
    if keyword == "SegmentLabel":
        sound = all(value in structure_names() for value in values)
    else:
        sound = all(is_trade(value) for value in values)
    if sound:
        return element
    if keyword == "RescaleType":
        return DataElement(element.tag, element.VR, "US")  # unspecified; CT without a type counts as HU
    if keyword in _table()["trade_needed"]:
        return DataElement(element.tag, element.VR, "REMOVED")
    return _blank(keyword in _table()["trade_empty"], element.tag, element.VR)


def _mapped(element: DataElement, profile: Profile) -> DataElement:
    return DataElement(element.tag, "UI", [profile.uid(u) for u in _values(element)])


def _shifted(element: DataElement, vr: str, shift: timedelta) -> DataElement | None:
    """Dates moved back by `shift`, times unchanged; whatever cannot be read as a date is removed."""
    values = _values(element)
    if vr == "TM":
        return DataElement(element.tag, vr, [_digits(v) for v in values])
    try:
        moved = [(datetime.strptime(v[:8], "%Y%m%d") - shift).strftime("%Y%m%d") for v in values if v]
    except (ValueError, OverflowError):
        return DataElement(element.tag, vr, "")
    rest = [_time_of(v[8:]) if vr == "DT" else "" for v in values if v]
    return DataElement(element.tag, vr, [a + b for a, b in zip(moved, rest, strict=True)] or "")


def _time_of(text: str) -> str:
    """Time of day and offset from UTC of a DT, as far as they are written as such."""
    return re.match(r"\d*(?:\.\d+)?(?:[+-]\d{4})?", text)[0]  # type: ignore[index]


def _digits(text: str) -> str:
    return "".join(c for c in text if c in "0123456789.")


def _clean_sequence(element: DataElement, profile: Profile, shift: timedelta) -> DataElement | None:
    for item in element.value:
        scheme, value = (str(item.get(k) or "") for k in ("CodingSchemeDesignator", "CodeValue"))
        if any(k in item for k in _CODED) and not meaning_of(scheme, value):
            # A code outside the standard may have been written by anybody, and may say anything.
            return None
    return DataElement(element.tag, "SQ", [_clean(item, profile, shift) for item in element.value])


def _state_method(result: Dataset, profile: Profile) -> None:
    """State that the identity was removed, and how (PS3.15 E.1.1 and CID 7050)."""
    methods = ["113100"]
    if profile.dates == "shift":
        methods.append("113107")
    if profile.keep_characteristics:
        methods.append("113108")
    result.PatientIdentityRemoved = "YES"
    result.LongitudinalTemporalInformationModified = "MODIFIED" if profile.dates == "shift" else "REMOVED"
    result.DeidentificationMethodCodeSequence = [_code(value) for value in methods]


def _code(value: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = value, "DCM"
    code.CodeMeaning = meaning_of("DCM", value)
    return code
