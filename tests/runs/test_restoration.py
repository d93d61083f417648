"""A restored study: image, report, and a derived DICOM series."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import torch

from medvit import restore
from medvit.bundles import Bundle
from medvit.runs import run_bundle
from medvit.studies import find_studies, read_study
from medvit.studies.grids import place
from medvit.transforms.slice_stack import upsampled_non_locally
from medvit.transforms.through_plane import refinement_of
from tests.label.phantoms import make_refiner, make_restorer
from tests.studies.dicom_out.synthetic import write_series


def test_a_restored_series_comes_back_as_image_report_and_series(tmp_path: Path) -> None:
    paths, _ = write_series(tmp_path / "series", (40, 36, 6), modality="MR")
    # The restorer shifts the brightness, which makes the study red.
    options = {"_target_": "medvit.runs.ResultOptions", "dicom": True, "dicom_anyway": True}
    bundle = Bundle(make_restorer(tmp_path / "restorer"))
    assert run_bundle(bundle, [tmp_path / "series"], tmp_path / "out", **{"writer#options": options}) == 3
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


def test_thick_slices_come_back_on_a_finer_grid_and_marked_as_estimated(tmp_path: Path) -> None:
    stated = {"SliceThickness": 4, "AcquisitionMatrix": [0, 12, 10, 0]}
    write_series(tmp_path / "series", (24, 20, 6), modality="MR", spacing=(1.0, 1.0, 5.0), **stated)
    options = {"_target_": "medvit.runs.ResultOptions", "dicom": True}
    bundle = Bundle(make_refiner(tmp_path / "refiner"))
    assert run_bundle(bundle, [tmp_path / "series"], tmp_path / "out", **{"writer#options": options}) == 0
    folder = next(p.parent for p in (tmp_path / "out").glob("*/done.json"))
    source = read_study(find_studies(tmp_path / "series").studies[0])
    refinement = refinement_of(source)
    image = nib.load(folder / "image.nii.gz")
    assert image.shape == (24, 20, 30) and refinement.stack.thickness == 4
    np.testing.assert_allclose(image.affine, refinement.grid.affine, atol=1e-4)
    bright = float(np.percentile(source.image[source.image > 0], 99.5))
    samples = refinement.slices(torch.as_tensor(source.image))[0] / bright
    expected = bright * upsampled_non_locally(samples, refinement.stacks).numpy()
    np.testing.assert_allclose(image.get_fdata(), expected, atol=0.5)

    written = json.loads((folder / "measurements.json").read_text())
    before, after = written["restoration"]["deviation_from_slices"]
    assert after < 0.1 * before
    assert any("5 mm apart and 4 mm thick" in note for note in written["study"]["notes"])
    assert any("12 acquired, 24 shown" in note for note in written["study"]["notes"])
    page = (folder / "report.html").read_text()
    assert page.count("Deviation from the measurement:") >= 5
    assert "is an estimate" in page

    derived = [pydicom.dcmread(p) for p in sorted((folder / "dicom" / "series").glob("*.dcm"))]
    assert len(derived) == 30 and all("estimated" in d.SeriesDescription for d in derived)
    again = read_study(find_studies(folder / "dicom" / "series").studies[0])
    placed = place(again.image[0].numpy(), again.grid, refinement.grid)
    assert placed is not None
    np.testing.assert_allclose(placed, expected, atol=1.1)


def test_what_is_not_thick_is_refused_by_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), tmp_path / "iso.nii.gz")
    bundle = Bundle(make_refiner(tmp_path / "refiner"))
    assert run_bundle(bundle, [tmp_path / "iso.nii.gz"], tmp_path / "out") == 3
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "no thick slices to refine" in json.dumps(record)


def test_the_api_gives_the_finer_grid(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((16, 18, 8)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    result = restore(voxels, str(make_refiner(tmp_path / "refiner")), affine, device="cpu", trust=True)
    assert result.image.shape == (16, 18, 32)
    np.testing.assert_allclose(result.affine[:3, 3], [0, 0, -1.5])
    folder = result.save(tmp_path / "out")
    assert nib.load(folder / "image.nii.gz").shape == (16, 18, 32)
    assert result.to_sitk().GetSpacing() == (1.0, 1.0, 1.0)
