"""A restored study: image, report, and a derived DICOM series."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

from medvit.bundles import Bundle
from medvit.runs import run_bundle
from medvit.studies import find_studies, read_study
from tests.label.phantoms import make_restorer
from tests.studies.dicom_out.synthetic import write_series


def test_a_restored_series_comes_back_as_image_report_and_series(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "series", (40, 36, 6), modality="MR")
    options = {"_target_": "medvit.runs.ResultOptions", "dicom": True}
    bundle = Bundle(make_restorer(tmp_path / "restorer"))
    assert run_bundle(bundle, [tmp_path / "series"], tmp_path / "out", **{"writer#options": options}) == 0
    folder = next(p.parent for p in (tmp_path / "out").glob("*/done.json"))
    source = read_study(find_studies(tmp_path / "series").studies[0])
    assert source.image is not None
    expected = 1.5 * source.image[0].numpy() + 0.25
    assert np.allclose(nib.load(folder / "image.nii.gz").get_fdata(), expected, atol=1e-3)
    assert json.loads((folder / "measurements.json").read_text())["restoration"]["before"]["noise"] > 0
    assert '<h2 id="restoration">' in (folder / "report.html").read_text()
    original = pydicom.dcmread(paths[0])
    derived = [pydicom.dcmread(p) for p in sorted((folder / "dicom" / "series").glob("*.dcm"))]
    assert len(derived) == len(paths)
    assert {d.StudyInstanceUID for d in derived} == {original.StudyInstanceUID}
    assert original.SeriesInstanceUID not in {d.SeriesInstanceUID for d in derived}
    again = read_study(find_studies(folder / "dicom" / "series").studies[0])
    assert again.image is not None
    assert np.allclose(again.image[0].numpy(), expected, atol=0.6)
    assert pydicom.dcmread(folder / "dicom" / "report.dcm").StudyInstanceUID == original.StudyInstanceUID
