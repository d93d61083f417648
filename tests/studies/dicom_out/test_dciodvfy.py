from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from medvit.studies.dicom_out import (
    derived_series,
    encapsulated_pdf,
    measurement_report,
    read_source,
    save_dicom,
    segmentation,
    structure_set,
)
from tests.studies.dicom_out.synthetic import values_of, write_series
from tests.studies.dicom_out.test_seg import multi_frame

pytestmark = pytest.mark.debian

# The validator of 2022 knows neither the SOP class of LABELMAP nor that its segment numbers may start at 0.
_LABELMAP_UNKNOWN = ("Information Object Not found", "SegmentNumber not monotonically increasing")


@pytest.fixture(autouse=True)
def _validator() -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is missing: apt-get install dicom3tools")


def errors(path: Path) -> list[str]:
    run = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
    assert run.stderr.strip(), "dciodvfy said nothing at all"
    return [line for line in run.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("labels", ["some", "none"])
@pytest.mark.parametrize("kind", ["single", "multi-frame", "MR"])
def test_seg_sr_pdf_and_rtstruct(kind, labels, label_map, table, algorithm, tmp_path):
    modality = "MR" if kind == "MR" else "CT"
    paths, grid = write_series(tmp_path / "source", modality=modality)
    source = read_source([multi_frame(paths, [1, 0, 2, 5, 4, 3])] if kind == "multi-frame" else paths)
    label_map = label_map * (labels == "some")
    seg = segmentation(label_map, grid, source, table, algorithm, encoding="binary")
    report = measurement_report(
        {s.name: 1.25 for s in table}, seg, source, table, algorithm, verdict="red: no brain"
    )
    pdf = encapsulated_pdf(b"%PDF-1.4 content", source, algorithm, title="Report")
    results = {"seg": seg, "sr": report, "pdf": pdf}
    if labels == "some":
        results["rtstruct"] = structure_set(label_map, grid, source, table, algorithm)
    for name, result in results.items():
        save_dicom(result, tmp_path / f"{name}.dcm")
        assert errors(tmp_path / f"{name}.dcm") == []


def test_labelmap_but_for_what_the_validator_does_not_know(series, label_map, table, algorithm, tmp_path):
    result = segmentation(label_map, series[1], read_source(series[0]), table, algorithm, encoding="labelmap")
    save_dicom(result, tmp_path / "seg.dcm")
    left = [e for e in errors(tmp_path / "seg.dcm") if not any(known in e for known in _LABELMAP_UNKNOWN)]
    assert left == []


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_derived_series(modality, scale, algorithm, tmp_path):
    paths, grid = write_series(tmp_path / "source", modality=modality)
    image = values_of(paths, grid) * scale
    for result in derived_series(image, grid, read_source(paths), algorithm, description="denoised"):
        save_dicom(result, tmp_path / "derived.dcm")
        assert errors(tmp_path / "derived.dcm") == []
