"""De-identification attribute by attribute: what stays, what is replaced, and what goes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medvit.errors import StudyError
from medvit.studies.deidentification.attributes import deidentify
from medvit.studies.deidentification.profile import Profile

REMOVE, SHIFT = Profile(b"secret"), Profile(b"secret", dates="shift")


def image(**attributes: Any) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    standard = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": "1.2.3.4", "PatientID": "4711",
        "PatientName": "Doe^Jane", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    for keyword, value in {**standard, **attributes}.items():
        setattr(made, keyword, value)
    return made


def test_the_patient_gets_a_pseudonym_and_instances_new_uids() -> None:
    first, second = (deidentify(image(), profile) for profile in (REMOVE, Profile(b"other")))
    assert first.PatientName == first.PatientID == f"anon-{REMOVE.digest('patient', '4711').hex()[:12]}"
    assert first.PatientID != second.PatientID
    assert (
        first.SOPInstanceUID
        == REMOVE.uid("1.2.3.4")
        == first.file_meta.get("MediaStorageSOPInstanceUID", first.SOPInstanceUID)
    )
    assert first.SOPClassUID == CTImageStorage


def test_the_source_is_not_changed() -> None:
    source = image(StudyDate="20200304", InstitutionName="Here")
    before = source.to_json()
    deidentify(source, SHIFT)
    assert source.to_json() == before


def test_dates_go_or_move_together_and_times_stay() -> None:
    dated = image(
        StudyDate="20200304", SeriesDate="20200310", StudyTime="101112.5", PatientBirthDate="19500102",
        AcquisitionDateTime="20200304235960.25+0100",
    )  # fmt: skip
    gone = deidentify(dated, REMOVE)
    assert gone.get("StudyDate", "") == "" and "2020" not in gone.to_json()
    moved = deidentify(dated, SHIFT)
    study, series = (datetime.strptime(str(d), "%Y%m%d") for d in (moved.StudyDate, moved.SeriesDate))
    assert (series - study).days == 6
    assert 365 <= (datetime(2020, 3, 4) - study).days < 365 + 3285
    assert moved.StudyTime == "101112.5"
    assert moved.AcquisitionDateTime == study.strftime("%Y%m%d") + "235960.25+0100"
    assert moved.get("PatientBirthDate", "") == ""


def test_what_is_not_a_date_does_not_stay() -> None:
    odd = image()
    odd.add_new("AcquisitionDateTime", "DT", "20200304 Doe 7")
    assert "Doe" not in str(deidentify(odd, SHIFT).AcquisitionDateTime)


def test_characteristics_stay_only_on_request() -> None:
    person = image(PatientAge="070Y", PatientSex="F", PatientSize=1.7, PatientWeight=60)
    bare = deidentify(person, REMOVE)
    assert bare.PatientSex == "" and "PatientAge" not in bare and "PatientWeight" not in bare
    kept = deidentify(person, Profile(b"secret", keep_characteristics=True))
    assert (kept.PatientAge, kept.PatientSex, kept.PatientSize, kept.PatientWeight) == ("070Y", "F", 1.7, 60)
    assert [c.CodeValue for c in kept.DeidentificationMethodCodeSequence] == ["113100", "113108"]


def test_text_private_and_nested_attributes_go() -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.9"
    item.InstitutionName = "Here"
    source = image(
        InstitutionName="Here", StudyDescription="Doe, knee", ReferringPhysicianName="Who^Doctor",
        ReferencedImageSequence=[item], SliceThickness=2.5, ImageType=["ORIGINAL", "PRIMARY", "DOE"],
    )  # fmt: skip
    source.add_new(0x00291010, "LO", "Doe")
    result = deidentify(source, REMOVE)
    assert "Doe" not in result.to_json() and "Here" not in result.to_json() and "Who" not in result.to_json()
    assert not any(tag.is_private for tag in result.keys())  # noqa: SIM118
    assert result.SliceThickness == 2.5 and list(result.ImageType) == ["ORIGINAL", "PRIMARY"]
    (reference,) = result.ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == REMOVE.uid("1.2.3.9")
    assert reference.ReferencedSOPClassUID == CTImageStorage


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "deidentify-burned-in"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "deidentify-burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "deidentify-burned-in"),
        ({"ContentSequence": [Dataset()]}, "deidentify-document"),
        ({"SOPInstanceUID": ""}, "deidentify-not-an-image"),
    ],
)
def test_what_may_show_a_name_is_refused(attributes: dict[str, Any], code: str) -> None:
    with pytest.raises(StudyError) as refusal:
        deidentify(image(**attributes), REMOVE)
    assert refusal.value.code == code


def test_a_screen_that_was_looked_at_is_accepted() -> None:
    screen = {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    assert deidentify(image(**screen), Profile(b"secret", allow_screens=True)).PatientIdentityRemoved == "YES"
    assert deidentify(image(**screen, BurnedInAnnotation="NO"), REMOVE).PatientIdentityRemoved == "YES"
