"""All DICOM results of one study, written into one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom import Dataset

from medvit.studies.dicom_out.common import Algorithm, save_dicom
from medvit.studies.dicom_out.derived import derived_series, estimated_series
from medvit.studies.dicom_out.pdf import encapsulated_pdf
from medvit.studies.dicom_out.rtstruct import structure_set
from medvit.studies.dicom_out.seg import Encoding, segmentation
from medvit.studies.dicom_out.source import read_source
from medvit.studies.dicom_out.sr import measurement_report
from medvit.studies.labels import LabelTable, renumbered
from medvit.studies.study import Grid, Series


def write_segmentation_results(
    folder: Path,
    series: Series,
    label_map: np.ndarray,
    grid: Grid,
    table: LabelTable,
    volumes: Mapping[str, float],
    algorithm: Algorithm,
    *,
    pdf: Path | None = None,
    encoding: Encoding = "auto",
    rtstruct: bool = False,
    verdict: str = "",
) -> list[Path]:
    """Write ``seg.dcm``, ``sr.dcm``, and ``rtstruct.dcm`` and ``report.dcm`` on request; give their paths.

    Parameters
    ----------
    folder
        Folder for the instances, created if necessary.
    series
        The DICOM series that was segmented.
    label_map, grid, table, encoding
        Same as in `segmentation`; without structures that such a study cannot show (`renumbered`).
    volumes
        Structure name to ml, as in `measurement_report`.
    algorithm
        What made the label map.
    pdf
        The report.
    rtstruct
        Whether to write the structures as contours as well; an empty label map has none.
    verdict
        Verdict of quality control, as in `measurement_report`.

    Raises
    ------
    StudyError
        If the label map does not lie on the series.
    MedvitError
        If the volumes or the report cannot be stated.
    """
    source = read_source(series.paths)
    label_map, table = renumbered(label_map, table)
    seg = segmentation(label_map, grid, source, table, algorithm, encoding=encoding)
    objects: dict[str, Dataset] = {"seg": seg}
    objects["sr"] = measurement_report(volumes, seg, source, table, algorithm, verdict=verdict)
    if rtstruct and label_map.any():
        objects["rtstruct"] = structure_set(label_map, grid, source, table, algorithm)
    if pdf is not None:
        objects["report"] = encapsulated_pdf(pdf, source, algorithm, title=f"{algorithm.name} report")
    # All are made before the first is written, so that a failure leaves nothing behind.
    paths = [folder / f"{name}.dcm" for name in objects]
    for path, result in zip(paths, objects.values(), strict=True):
        save_dicom(result, path)
    return paths


def write_restoration_results(
    folder: Path,
    series: Series,
    image: np.ndarray,
    grid: Grid,
    algorithm: Algorithm,
    *,
    description: str,
    pdf: Path | None = None,
    estimated: bool = False,
) -> list[Path]:
    """Write the derived series to ``series/`` and, given a report, ``report.dcm``; give their paths.

    Parameters
    ----------
    folder
        Folder for the instances, created if necessary.
    series
        The DICOM series that was restored.
    image, grid, description
        As `derived_series` takes them.
    algorithm
        What restored the image.
    pdf
        The report.
    estimated
        Whether `grid` is finer than the series, as in `estimated_series`.

    Raises
    ------
    StudyError
        If the image does not lie on the series.
    MedvitError
        If the image or the report cannot be stated.
    """
    source = read_source(series.paths)
    units = str(series.facts.get("units") or "")
    paths = []
    if pdf is not None:
        report = encapsulated_pdf(pdf, source, algorithm, title=f"{algorithm.name} report")
        paths.append(folder / "report.dcm")
        save_dicom(report, paths[0])
    # One slice at a time: a whole CT in memory twice is more than the restoration itself took.
    write = estimated_series if estimated else derived_series
    slices = write(image, grid, source, algorithm, description=description, units=units)
    for number, result in enumerate(slices, 1):
        paths.append(folder / "series" / f"{number:05}.dcm")
        save_dicom(result, paths[-1])
    return paths
