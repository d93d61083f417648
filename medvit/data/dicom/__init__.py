"""DICOM in: series found among files by their headers, and read as volumes that stand at their place."""

from medvit.data.dicom.archive import files_of_dicomdir, unzip
from medvit.data.dicom.read import read
from medvit.data.dicom.scan import LeftOut, ScanResult, scan

__all__ = ["LeftOut", "ScanResult", "files_of_dicomdir", "read", "scan", "unzip"]
