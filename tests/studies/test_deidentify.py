from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import SecondaryCaptureImageStorage

from medvit.errors import MedvitError, StudyError
from medvit.studies.deidentify import Profile, deidentify, deidentify_folder
from medvit.studies.dicom_out import (
    Algorithm,
    encapsulated_pdf,
    measurement_report,
    read_source,
    save_dicom,
    segmentation,
)
from medvit.studies.labels import load_label_table
from tests.studies.dicom_out.synthetic import values_of, write_series

# 25 identifiers, each where scanners, archives and people leave them.
PLANTED = {
    "PatientName": "Ixname^Ada",
    "PatientID": "IX-0002",
    "OtherPatientIDs": "IX-0003",
    "PatientBirthDate": "19431103",
    "PatientAddress": "Ixstreet 5",
    "PatientTelephoneNumbers": "555-IX06",
    "PatientComments": "call sister Ixseven",
    "AdditionalPatientHistory": "fell at Ixeight farm",
    "StudyDescription": "head for Dr Ixnine",
    "SeriesDescription": "axial Ixten",
    "ImageComments": "moved, Ixeleven held the hand",
    "AccessionNumber": "IX-ACC-12",
    "StudyID": "IX-ST-13",
    "ReferringPhysicianName": "Ixfourteen^Ref",
    "OperatorsName": "Ixfifteen^Op",
    "InstitutionName": "Ixsixteen Hospital",
    "InstitutionAddress": "Ixseventeen Road",
    "StationName": "IXSCAN18",
    "DeviceSerialNumber": "IX-SER-19",
    "ProtocolName": "Ixtwenty special",
}
NESTED, PRIVATE, LOCAL_CODE, META, OVERLAY = "Ix21nested", "Ix22private", "Ix23local", "IX24AE", "Ix25overlay"
UNASKED = {"folder": "IX26_ADA", "preamble": "Ix27preamble", "badvr": "Ix28 in a date"}
ALL = [*PLANTED.values(), NESTED, PRIVATE, LOCAL_CODE, META, OVERLAY, *UNASKED.values()]
# Names are also looked for in parts.
WORDS = {w for text in ALL for w in text.replace("^", " ").split() if "ix" in w.lower()} | {"19431103"}


@pytest.fixture
def planted(tmp_path: Path) -> tuple[list[Path], object]:
    paths, grid = write_series(tmp_path / UNASKED["folder"], **PLANTED)
    renamed = []
    for k, path in enumerate(paths):
        image = pydicom.dcmread(path)
        plant(image)
        renamed.append(path.with_name(f"{UNASKED['folder']}_{k}"))
        image.save_as(renamed[-1])
        path.unlink()
    return renamed, grid


def plant(image: Dataset) -> None:
    step, code, deeper = Dataset(), Dataset(), Dataset()
    step.ScheduledProcedureStepDescription = NESTED
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "17", "99IX", LOCAL_CODE
    deeper.ReasonForTheRequestedProcedure = NESTED
    deeper.private_block(0x0013, "IX MAKER", create=True).add_new(0x01, "UT", PRIVATE)
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.3.26",
    )
    reference.PurposeOfReferenceCodeSequence = [deeper]
    image.RequestAttributesSequence, image.ProcedureCodeSequence = [step], [code]
    image.ReferencedImageSequence = [reference]
    image.private_block(0x0011, "IX MAKER", create=True).add_new(0x01, "LO", PRIVATE)
    image.add_new(0x60004000, "LT", OVERLAY)
    image.add_new(0x00189999, "UN", NESTED.encode())
    image.SeriesDate = image.StudyDate
    image.AcquisitionDate = ""
    image["AcquisitionDate"]._value = UNASKED["badvr"]
    image.file_meta.SourceApplicationEntityTitle = META
    image.preamble = UNASKED["preamble"].encode().ljust(128, b"\0")


def found_in(folder: Path, text: str = "") -> set[str]:
    """The planted words that appear in a file, in the name of a file, or in `text`."""
    content = text.encode() + b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    names = "".join(str(p.relative_to(folder)) for p in folder.rglob("*")).encode()
    haystack = (content + names).lower()
    return {w for w in WORDS if w.lower().encode() in haystack}


def test_the_test_finds_what_it_planted(planted, tmp_path):
    assert len(PLANTED) + 5 == 25
    assert found_in(tmp_path) == WORDS


@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_no_planted_identifier_in_any_output(dates, planted, tmp_path, caplog, capfd, recwarn):
    paths, grid = planted
    out = tmp_path / "out"
    recwarn.clear()
    with caplog.at_level(0):
        done = deidentify_folder(paths[0].parent, out, Profile(dates=dates, keep_characteristics=True))
        assert len(done.files) == len(paths) and not done.left_out
        write_results(list(done.files), grid, out)
    said = caplog.text + "".join(capfd.readouterr()) + " ".join(str(w.message) for w in recwarn)
    assert found_in(out, said) == set()
    uids = {u for p in paths for u in uids_of(pydicom.dcmread(p))}
    content = b"".join(p.read_bytes() for p in out.rglob("*.dcm"))
    assert not [u for u in uids if u.encode() in content]


def uids_of(image: Dataset) -> list[str]:
    return [image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID, image.FrameOfReferenceUID,
            "1.2.3.26"]  # fmt: skip


def write_results(paths: list[Path], grid, folder: Path) -> None:
    source, table, algorithm = read_source(paths), load_label_table("brain"), Algorithm("test", "1")
    label_map = np.zeros(grid.shape, np.uint8)
    label_map[2:9, 3:9, 1:4] = 3
    seg = segmentation(label_map, grid, source, table, algorithm)
    save_dicom(seg, folder / "seg.dcm")
    report = measurement_report({table.structures[2].name: 1.0}, seg, source, table, algorithm)
    save_dicom(report, folder / "sr.dcm")
    save_dicom(encapsulated_pdf(b"%PDF-1.4", source, algorithm, title="Report"), folder / "pdf.dcm")


def test_pixels_geometry_and_values_stay(planted, tmp_path):
    paths, grid = planted
    done = deidentify_folder(paths[0].parent, tmp_path / "out")
    np.testing.assert_array_equal(values_of(list(done.files), grid), values_of(paths, grid))
    image = pydicom.dcmread(done.files[0])
    assert image.PatientIdentityRemoved == "YES"
    assert image.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert (image.Modality, image.RescaleType, image.Manufacturer) == ("CT", "HU", "Maker")
    assert image.PatientName == image.PatientID and str(image.PatientID).startswith("anon-")
    assert (image.PatientSex, image.StudyDate, image.PatientBirthDate) == ("", "", "")


def test_originals_are_not_changed(planted):
    image = pydicom.dcmread(planted[0][0])
    image.PatientIdentityRemoved = "NO"
    before = image.to_json(suppress_invalid_tags=True)
    deidentify(image, Profile(dates="shift"))
    assert image.to_json(suppress_invalid_tags=True) == before


def test_references_between_objects_of_a_study_hold(tmp_path):
    paths, grid = write_series(tmp_path / "ct")
    write_results(paths, grid, tmp_path / "results")
    seg = pydicom.dcmread(tmp_path / "results" / "seg.dcm")
    profile = Profile(b"a secret")
    images = [deidentify(pydicom.dcmread(p), profile) for p in paths]
    new = deidentify(seg, profile)
    assert len({i.StudyInstanceUID for i in [*images, new]}) == 1
    assert new.FrameOfReferenceUID == images[0].FrameOfReferenceUID != seg.FrameOfReferenceUID
    referenced = {
        r.ReferencedSOPInstanceUID for r in new.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {i.SOPInstanceUID for i in images}
    assert all(i.SOPInstanceUID.is_valid for i in images)
    save_dicom(new, tmp_path / "new.dcm")
    read = hd.seg.segread(tmp_path / "new.dcm")
    assert read.get_segment_description(3).segment_label == load_label_table("brain").structures[2].name


def one_image(folder: Path, **attributes: object) -> Dataset:
    (path,), _ = write_series(folder, (8, 8, 1), **attributes)
    return pydicom.dcmread(path)


def test_same_secret_same_patient_and_intervals_hold(tmp_path):
    dates = ("20200228", "20210301")
    first, second = (one_image(tmp_path / d, StudyDate=d, AcquisitionDateTime=f"{d}1011") for d in dates)
    profile = Profile(b"a secret", dates="shift")
    one, two = deidentify(first, profile), deidentify(second, Profile(b"a secret", dates="shift"))
    days = [pydicom.valuerep.DA(i.StudyDate) for i in (one, two)]
    assert (days[1] - days[0]).days == 367 and days[0].year < 2020
    assert one.AcquisitionDateTime == f"{one.StudyDate}1011"
    assert one.PatientID == two.PatientID != deidentify(first, Profile(b"another")).PatientID
    assert one.StudyInstanceUID != two.StudyInstanceUID
    other = one_image(tmp_path / "other", PatientID="P2")
    assert deidentify(other, profile).PatientID != one.PatientID
    assert deidentify(other, profile).StudyDate != deidentify(first, profile).StudyDate


def test_series_without_any_identifier_stays_one_series(tmp_path):
    nobody = {"PatientID": "", "PatientName": "", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    paths, _ = write_series(tmp_path / "in", **nobody)
    done = deidentify_folder(tmp_path / "in", tmp_path / "out")
    assert {pydicom.dcmread(p).PatientID for p in done.files} == {""}
    assert len({p.parent for p in done.files}) == 1 and len(done.files) == len(paths)


def test_characteristics_stay_only_when_asked_for(tmp_path):
    paths, _ = write_series(tmp_path / "ct", (8, 8, 1), PatientAge="070Y", PatientWeight=71.5)
    image = pydicom.dcmread(paths[0])
    plain = deidentify(image, Profile())
    assert "PatientAge" not in plain and "PatientWeight" not in plain and plain.PatientSex == ""
    kept = deidentify(image, Profile(keep_characteristics=True))
    assert (kept.PatientAge, kept.PatientWeight, kept.PatientSex) == ("070Y", 71.5, "F")


def test_screens_and_documents_are_refused(tmp_path):
    paths, grid = write_series(tmp_path / "ct")
    image = pydicom.dcmread(paths[0])
    for change in (
        {"BurnedInAnnotation": "YES"},
        {"SOPClassUID": SecondaryCaptureImageStorage},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ):
        screen = pydicom.dcmread(paths[0])
        for keyword, value in change.items():
            setattr(screen, keyword, value)
        with pytest.raises(StudyError, match="may show names in its pixels"):
            deidentify(screen, Profile())
        assert deidentify(screen, Profile(allow_screens=True)).PixelData == image.PixelData
    write_results(paths, grid, tmp_path / "results")
    for name in ("sr.dcm", "pdf.dcm"):
        with pytest.raises(StudyError, match="is a document"):
            deidentify(pydicom.dcmread(tmp_path / "results" / name), Profile())


def test_a_value_of_the_wrong_type_is_refused_without_quoting_it(tmp_path):
    paths, _ = write_series(tmp_path / "ct", (8, 8, 1))
    raw = paths[0].read_bytes().replace(b"DS\x06\x00120.0 ", b"DS\x06\x00Ix29  ")
    paths[0].write_bytes(raw)
    with pytest.raises(StudyError, match="KVP") as error:
        deidentify(pydicom.dcmread(paths[0]), Profile())
    assert "Ix29" not in str(error.value) and error.value.__context__ is None


def test_folder_says_what_it_left_out_and_why(tmp_path):
    paths, grid = write_series(tmp_path / "in" / "ct")
    (tmp_path / "in" / "note.txt").write_text("x")
    write_results(paths, grid, tmp_path / "in" / "results")
    done = deidentify_folder(tmp_path / "in", tmp_path / "out")
    assert len(done.files) == len(paths) + 1
    reasons = {p.name: why for p, why in done.left_out}
    assert reasons.keys() == {"note.txt", "sr.dcm", "pdf.dcm"}
    assert reasons["note.txt"] == "is not DICOM" and "document" in reasons["sr.dcm"]
    with pytest.raises(MedvitError, match="choose another"):
        deidentify_folder(tmp_path / "in", tmp_path / "in" / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvitError, match="none of the 0 files"):
        deidentify_folder(tmp_path / "empty", tmp_path / "out")


def test_table_holds_dicom_keywords_once_each():
    table = json.loads((files("medvit.studies") / "deidentify.json").read_text())
    keywords = [k for part in ("keep", "empty", "dummy", "remove", "characteristics") for k in table[part]]
    assert [k for k in keywords if tag_for_keyword(k) is None] == []
    assert len(keywords) == len(set(keywords))


@pytest.mark.debian
@pytest.mark.parametrize("dates", ["remove", "shift"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dciodvfy_finds_no_error(dates, modality, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is missing: apt-get install dicom3tools")
    paths, grid = write_series(tmp_path / "in", modality=modality)
    write_results(paths, grid, tmp_path / "in")
    done = deidentify_folder(tmp_path / "in", tmp_path / "out", Profile(dates=dates))
    for path in done.files:
        run = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
        assert run.stderr.strip()
        assert [line for line in run.stderr.splitlines() if line.startswith("Error")] == []
