"""A report as a DICOM Encapsulated PDF object (PS3.3 A.45.1)."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from medvit.errors import MedvitError
from medvit.studies.dicom_out.common import Algorithm, new_object, reference_to
from medvit.studies.dicom_out.source import SourceSeries


def encapsulated_pdf(pdf: bytes | Path, source: SourceSeries, algorithm: Algorithm, *, title: str) -> Dataset:
    """A PDF file as an object of the study that it describes.

    Parameters
    ----------
    pdf
        The file, or its content.
    source
        The series that the report is about.
    algorithm
        What made the figures of the report.
    title
        Shown by viewers; up to 64 characters.

    Raises
    ------
    MedvitError
        If the content is not a PDF.
    """
    content = pdf.read_bytes() if isinstance(pdf, Path) else pdf
    if not content.startswith(b"%PDF-"):
        where = f"{pdf}: " if isinstance(pdf, Path) else ""
        raise MedvitError(f"{where}the report is not a PDF file; create it again")
    result = new_object(source, EncapsulatedPDFStorage, "DOC", 3, title, algorithm)
    result.ConversionType = "WSD"
    result.BurnedInAnnotation = "YES"
    result.AcquisitionDateTime = ""
    result.DocumentTitle = title[:64]
    result.ConceptNameCodeSequence = [hd.sr.CodedConcept("18748-4", "LN", "Diagnostic imaging report")]
    result.SourceInstanceSequence = [reference_to(image) for image in source.images]
    result.MIMETypeOfEncapsulatedDocument = "application/pdf"
    # OB has an even length; the true one is stated beside it.
    result.EncapsulatedDocument = content + b"\x00" * (len(content) % 2)
    result.EncapsulatedDocumentLength = len(content)
    return result
