from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import SecondaryCaptureImageStorage

from medvit.errors import MedvitError, StudyError
from medvit.studies.deidentification import Profile, deidentify, deidentify_folder
from medvit.studies.dicom_out import (
    Algorithm,
    encapsulated_pdf,
    measurement_report,
    read_source,
    save_dicom,
    segmentation,
)
from medvit.studies.labels import load_label_table
from tests.studies.dicom.encoding import (
    SYNTAXES,
    cut,
    deflate_bomb,
    insert_before,
    nested_sequences,
    save,
    save_as,
)
from tests.studies.dicom.synthetic import made_up
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
    with pytest.raises(MedvitError, match="holds no files"):
        deidentify_folder(tmp_path / "empty", tmp_path / "out")


def test_table_holds_dicom_keywords_once_each():
    table = json.loads((files("medvit.studies.deidentification") / "attributes.json").read_text())
    parts = ("keep", "trade", "empty", "dummy", "remove", "characteristics")
    keywords = [k for part in parts for k in table[part]]
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


# Where text may stand that says what it is, and so is kept if it is made of terms.
TECHNICAL = {
    "SequenceName": "Ix30name",
    "ConvolutionKernel": ["B30f", "Ix31kernel"],
    "FilterType": "Ix32filter",
    "WindowCenterWidthExplanation": ["Ix33window"],
    "Manufacturer": "Ix34 Works",
    "ManufacturerModelName": "Scanner of Ix35",
    "SoftwareVersions": ["VA48A", "IX36SOFT"],
    "RescaleType": "Ix37type",
    "BodyPartExamined": "IX38PART",
    "ScanOptions": "IX39OPTION",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "IX40"],
    "PatientPosition": "IX41HFS",
    "ReconstructionMethod": "Ix42method",
    "PositionReferenceIndicator": "Ix43ref",
    "ICCProfile": b"Ix44profile.",
    "FrameOfReferenceUID": "1.2.840.10008.19431103",
}
CODED = {"SCT": ("IX45", "Ix46meaning"), "DCM": ("113100", "Ix47meaning")}


def hide(image: Dataset) -> Dataset:
    """Identifiers in technical attributes, in codes of public schemes, and behind the pixels."""
    for keyword, value in TECHNICAL.items():
        setattr(image, keyword, value)
    for keyword, (scheme, (value, meaning)) in zip(
        ("AnatomicRegionSequence", "DeidentificationMethodCodeSequence"), CODED.items(), strict=True
    ):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
        setattr(image, keyword, [code])
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "69536005", "SCT", "Ix48head"
    deeper = Dataset()
    deeper.AnatomicRegionSequence = [region]
    deeper.ScanOptions, deeper.SequenceName = "IX49", "Ix50nested"
    image.SourceImageSequence = [deeper]
    return image


HIDDEN = re.compile(rb"ix\s?\d\d", re.IGNORECASE)


def stored(image: Dataset, folder: Path, profile: Profile | None = None) -> tuple[Path, bytes]:
    """The one file that an image becomes, and its bytes."""
    (folder / "in").mkdir(parents=True)
    image.save_as(folder / "in" / "image.dcm")
    done = deidentify_folder(folder / "in", folder / "out", profile)
    assert done.left_out == ()
    return done.files[0], done.files[0].read_bytes()


@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_technical_attributes_keep_only_terms(dates, tmp_path):
    image = hide(one_image(tmp_path / "made"))
    image.BodyPartExamined = ["HEAD", "IX38PART"]
    path, content = stored(image, tmp_path, Profile(dates=dates, keep_characteristics=True))
    assert not HIDDEN.search(content) and b"19431103" not in content
    kept = pydicom.dcmread(path)
    assert list(kept.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert (kept.BodyPartExamined, kept.Manufacturer, kept.RescaleType) == ("HEAD", "REMOVED", "US")
    region = kept.SourceImageSequence[0].AnatomicRegionSequence[0]
    assert (region.CodeValue, region.CodeMeaning) == ("69536005", "Head structure (body structure)")


def test_technical_attributes_that_name_no_one_stay(tmp_path):
    usual = {
        "SequenceName": "*tfl3d1_16ns", "ConvolutionKernel": ["Br40d", "3"], "FilterType": "BODY FILTER",
        "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"], "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "SOMATOM Definition AS+", "SoftwareVersions": "syngo CT VA48A",
        "BodyPartExamined": "CHEST", "ScanOptions": ["FS", "PFF"], "ReconstructionMethod": "OSEM3D",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
    }  # fmt: skip
    image = one_image(tmp_path, **usual)
    kept = deidentify(image, Profile())
    assert {k: kept[k].value for k in usual if k in kept} == {k: image[k].value for k in usual}


@pytest.mark.parametrize("syntax", ["", *(s for s in SYNTAXES if s != "big_endian")])
def test_nothing_stays_behind_the_pixels(syntax, tmp_path):
    image, path = made_up().datasets()[0], tmp_path / "encoded.dcm"
    expected = image.pixel_array.copy()
    save_as(image, path, syntax) if syntax else save(image, path)
    image = pydicom.dcmread(path)
    name = b"Ix51behind"
    if syntax in ("", "deflated", "implicit"):
        image.PixelData += name
    else:
        (frame,) = generate_frames(image.PixelData, number_of_frames=1)
        if syntax == "j2k_lossless":  # behind SIZ, the first segment
            at = 4 + int.from_bytes(frame[4:6], "big")
            frame = frame[:at] + b"\xff\x64\x00\x10\x00\x01" + b"Ix52comment." + frame[at:]
        elif syntax != "rle":
            frame = frame[:2] + b"\xff\xfe\x00\x0eIx53comment." + frame[2:]
        image.PixelData = encapsulate([frame + name])
    assert HIDDEN.search(image.PixelData)
    path, content = stored(image, tmp_path / "hidden")
    assert not HIDDEN.search(pydicom.dcmread(path).PixelData) and not HIDDEN.search(content)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, expected)


def test_names_in_unused_bits_go(tmp_path):
    image = one_image(tmp_path / "made")
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0
    pixels = np.frombuffer(image.PixelData, "<u2") & 0xFFF
    image.PixelData = (pixels | 0x8000).astype("<u2").tobytes()
    image.BodyPartExamined = "IX38PART"
    path, _ = stored(image, tmp_path)
    assert pydicom.dcmread(path).PixelData == pixels.astype("<u2").tobytes()


def test_the_gates_of_the_reader_hold(tmp_path):
    folder = tmp_path / "in"
    write_series(folder, (8, 8, 1))
    deflate_bomb(made_up().datasets()[0], folder / "bomb.dcm", 1.5)
    nested = save(made_up().datasets()[1], folder / "nested.dcm")
    insert_before(nested, b"\x10\x00\x10\x00", nested_sequences(3000))
    cut(save(made_up().datasets()[2], folder / "cut.dcm"), -200)
    cut(save(made_up().datasets()[3], folder / "head.dcm"), 900)
    start = time.perf_counter()
    done = deidentify_folder(folder, tmp_path / "out")
    assert time.perf_counter() - start < 10
    assert len(done.files) == 1 and done.files[0].is_file()
    why = {path.name: what for path, what in done.left_out}
    assert why.keys() == {"bomb.dcm", "nested.dcm", "cut.dcm", "head.dcm"}
    assert "unpacks" in why["bomb.dcm"] and "nested" in why["nested.dcm"]
    assert "cut off" in why["cut.dcm"] and "cut off" in why["head.dcm"]


def test_nothing_is_written_twice_and_what_is_counted_exists(tmp_path):
    paths, _ = write_series(tmp_path / "in", (8, 8, 4))
    (tmp_path / "in" / "copy.dcm").write_bytes(paths[1].read_bytes())
    third = paths[2].read_bytes()
    (tmp_path / "in" / "zz_cut.dcm").write_bytes(third[:-40])
    other = pydicom.dcmread(paths[3])
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = pydicom.dcmread(
        paths[0]
    ).SOPInstanceUID
    other.save_as(tmp_path / "in" / "zz_other.dcm")
    profile = Profile(b"a secret")
    done = deidentify_folder(tmp_path / "in", tmp_path / "out", profile)
    written = sorted((tmp_path / "out").rglob("*.dcm"))
    assert sorted(done.files) == written and len(written) == 4
    expected = {pydicom.dcmread(p).PixelData for p in paths}
    assert {pydicom.dcmread(p).PixelData for p in written} == expected
    why = sorted(what for _, what in done.left_out)
    assert len(why) == 3
    assert (
        why[0].startswith("is a copy of")
        and "states the same SOPInstanceUID" in why[1]
        and "cut off" in why[2]
    )
    before = {p: p.read_bytes() for p in written}
    with pytest.raises(MedvitError, match="none of the 7 files"):
        deidentify_folder(tmp_path / "in", tmp_path / "out", profile)
    assert {p: p.read_bytes() for p in written} == before


def test_patients_without_uids_stay_apart(tmp_path):
    for k, name in enumerate(("Ada^A", "Bea^B")):
        paths, _ = write_series(
            tmp_path / "made" / name,
            (8, 8, 2),
            PatientName=name,
            PatientID="",
            StudyInstanceUID="",
            SeriesInstanceUID="",
        )
        for path in paths:
            (tmp_path / "in").mkdir(exist_ok=True)
            path.rename(tmp_path / "in" / f"{k}{path.name}")
    done = deidentify_folder(tmp_path / "in", tmp_path / "out")
    folders = {path.parent for path in done.files}
    assert len(done.files) == 4 and len(folders) == 2
    for folder in folders:
        images = [pydicom.dcmread(path) for path in folder.iterdir()]
        assert len({image.PatientID for image in images}) == 1
        assert len({image.SeriesInstanceUID for image in images}) == 1 and images[0].StudyInstanceUID
