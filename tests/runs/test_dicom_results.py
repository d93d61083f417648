"""From a DICOM series to a segmentation, a structured report and a PDF that name the series, or nobody."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import EncapsulatedPDFStorage, SegmentationStorage

from medvit.bundles import find_bundle
from medvit.runs import BundleProcess, Route, run_bundle
from medvit.studies import SeriesRules
from tests.phantoms import COARSE
from tests.studies.dicom_out.synthetic import write_series


@pytest.fixture
def source(tmp_path: Path) -> list[Path]:
    paths, _ = write_series(
        tmp_path / "series", PatientName="Planted^Patient", PatientID="planted-17",
        InstitutionName="Planted Hospital",
    )  # fmt: skip
    return paths


def run(source: list[Path], output: Path, **options: object) -> Path:
    overrides = {
        "device": "$torch.device('cpu')", "report": False, "dicom": True,
        "writer#options#dicom_anyway": True, "force": True, **COARSE, **options,
    }  # fmt: skip
    run_bundle(find_bundle("segformer3d_brain"), [source[0].parent], output, **overrides)
    return next(p for p in output.iterdir() if p.is_dir() and p.name != ".cohort")


def test_the_results_belong_to_the_series(source: list[Path], tmp_path: Path) -> None:
    study = run(source, tmp_path / "out")
    image = pydicom.dcmread(source[0])
    results = {p.stem: pydicom.dcmread(p) for p in (study / "dicom").glob("*.dcm")}
    assert set(results) == {"seg", "sr", "report"}
    assert results["seg"].SOPClassUID == SegmentationStorage
    assert results["report"].SOPClassUID == EncapsulatedPDFStorage
    for result in results.values():
        assert result.StudyInstanceUID == image.StudyInstanceUID
        assert result.PatientID == "planted-17"
    referenced = results["seg"].ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == image.SeriesInstanceUID
    labels = np.asarray(nib.load(study / "labels.nii.gz").dataobj)
    described = {int(s.SegmentNumber): str(s.SegmentLabel) for s in results["seg"].SegmentSequence}
    assert set(np.unique(labels)) - {0} <= set(described)
    assert described[19] == "left hippocampus"
    # A CT that was forced through a bundle for MR says so in the report that goes to the archive.
    told = [str(e.value) for e in results["sr"].iterall() if e.keyword == "TextValue"]
    assert any("forced through: it is CT" in text for text in told), told


def test_de_identified_results_name_nobody(source: list[Path], tmp_path: Path) -> None:
    study = run(source, tmp_path / "out", deidentify=True)
    files = [p for p in tmp_path.joinpath("out").rglob("*") if p.is_file()]
    assert len([p for p in files if "images" in p.parts]) == len(source)
    uids = [
        pydicom.dcmread(source[0]).get(k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    ]
    for path in files:
        content = path.read_bytes().lower()
        for secret in (b"planted", *(str(uid).encode() for uid in uids)):
            assert secret not in content, (path.name, secret)
    image = next(study.joinpath("dicom", "images").rglob("*.dcm"))
    seg = pydicom.dcmread(study / "dicom" / "seg.dcm")
    assert seg.StudyInstanceUID == pydicom.dcmread(image).StudyInstanceUID


def test_a_listener_runs_the_bundle_whose_rules_take_a_series(tmp_path: Path) -> None:
    inbox = tmp_path / "out" / "inbox" / "study"
    write_series(inbox / "mr", modality="MR", SeriesDescription="t1")
    write_series(inbox / "ct")
    route = Route(find_bundle("segformer3d_brain"), SeriesRules(modality=("MR",)))
    settings = {
        "device": "$torch.device('cpu')",
        "writer#options#dicom_anyway": True,
        "force": True,
        **COARSE,
    }
    processed = BundleProcess(tmp_path / "out", [route], settings)(inbox)
    assert {p.stem for p in processed.files} == {"seg", "sr", "report"}
    image = pydicom.dcmread(next((inbox / "mr").iterdir()))
    for path in processed.files:
        assert pydicom.dcmread(path).StudyInstanceUID == image.StudyInstanceUID
    assert "series ct is left out: its modality is CT" in processed.said
    assert len(processed.said) == 2
