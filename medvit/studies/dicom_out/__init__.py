"""Results as DICOM objects of the study they come from: SEG, RTSTRUCT, SR, PDF, derived images."""

from medvit.studies.dicom_out.common import Algorithm, save_dicom
from medvit.studies.dicom_out.derived import derived_series, estimated_series
from medvit.studies.dicom_out.pdf import encapsulated_pdf
from medvit.studies.dicom_out.results import write_restoration_results, write_segmentation_results
from medvit.studies.dicom_out.rtstruct import structure_set
from medvit.studies.dicom_out.seg import segmentation
from medvit.studies.dicom_out.source import SourceSeries, can_write_dicom, read_source
from medvit.studies.dicom_out.sr import measurement_report

__all__ = [
    "Algorithm",
    "SourceSeries",
    "can_write_dicom",
    "derived_series",
    "encapsulated_pdf",
    "estimated_series",
    "measurement_report",
    "read_source",
    "save_dicom",
    "segmentation",
    "structure_set",
    "write_restoration_results",
    "write_segmentation_results",
]
