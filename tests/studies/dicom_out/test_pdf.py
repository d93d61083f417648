from __future__ import annotations

import pydicom
import pytest

from medvit.errors import MedvitError
from medvit.studies.dicom_out import encapsulated_pdf, read_source, save_dicom


@pytest.mark.parametrize("content", [b"%PDF-1.4 odd length", b"%PDF-1.4 even length"])
def test_content_and_study_come_back(content, series, algorithm, tmp_path):
    result = encapsulated_pdf(content, read_source(series[0]), algorithm, title="Brain volumes")
    save_dicom(result, tmp_path / "pdf.dcm")
    read = pydicom.dcmread(tmp_path / "pdf.dcm")
    assert read.EncapsulatedDocument[: read.EncapsulatedDocumentLength] == content
    assert len(read.EncapsulatedDocument) % 2 == 0
    source = pydicom.dcmread(series[0][0])
    assert read.StudyInstanceUID == source.StudyInstanceUID != read.SeriesInstanceUID
    assert (read.PatientName, read.PatientID, read.DocumentTitle) == ("Doe^Jane", "P1", "Brain volumes")
    assert len(read.SourceInstanceSequence) == len(series[0])


def test_what_is_no_pdf_is_refused(series, algorithm, tmp_path):
    (tmp_path / "report.html").write_text("<html>")
    with pytest.raises(MedvitError, match=r"report\.html.*not a PDF"):
        encapsulated_pdf(tmp_path / "report.html", read_source(series[0]), algorithm, title="x")


def test_a_failed_save_leaves_nothing(series, algorithm, tmp_path):
    result = encapsulated_pdf(b"%PDF-1.4", read_source(series[0]), algorithm, title="x")
    del result.SOPClassUID
    result.file_meta.MediaStorageSOPClassUID = ""
    with pytest.raises(AttributeError):
        save_dicom(result, tmp_path / "out" / "pdf.dcm")
    assert list((tmp_path / "out").iterdir()) == []
