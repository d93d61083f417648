"""Bundles, label tables, volumes and versions, without a server."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

from medvit.bundles import Bundle
from medvit.errors import StudyError, WeightsError
from medvit.label.errors import RequestError
from medvit.label.serving import ServedBundle
from medvit.label.versions import Training, Versions, export
from medvit.label.volumes import labels_on, read_label_map, write_volume
from medvit.runs.options import execution_settings
from medvit.studies import Grid, only_study, read_study, sha256_of
from tests.label.phantoms import CASES, make_bundle, make_restorer, steps, write_cases


def served(bundle: Path, tmp_path: Path) -> ServedBundle:
    return ServedBundle(Bundle(bundle), Versions(tmp_path / "versions"))


def test_each_case_gets_the_labels_of_its_own_voxels(tmp_path: Path) -> None:
    bundle = served(make_bundle(tmp_path / "steps"), tmp_path)
    for name, truth in write_cases(tmp_path / "studies").items():
        prediction = bundle.predict(tmp_path / "studies" / f"{name}.nii.gz")
        np.testing.assert_array_equal(prediction.voxels, truth, err_msg=name)
        assert prediction.bundle.version == "1.0.0"


def test_an_option_reaches_the_inferer_and_an_expression_does_not_run(tmp_path: Path) -> None:
    bundle = served(make_bundle(tmp_path / "steps"), tmp_path)
    write_cases(tmp_path / "studies")
    image = tmp_path / "studies" / "ras.nii.gz"
    windows = [bundle.predict(image, {"overlap": o}).details["windows"] for o in (0.0, "0.75")]
    assert windows[1] > 2 * windows[0]
    for name, value in (
        ("overlap", "$exit(3)"),
        ("overlap", float("nan")),
        ("overlap", None),
        ("overlap", 1.5),
        ("size", 1),
    ):
        with pytest.raises(RequestError, match=name):
            bundle.predict(image, {name: value})
    with pytest.raises(RequestError, match="no device"):
        bundle.predict(image, device="cpu'); exit(3); ('")


def test_precision_is_that_of_every_request(tmp_path: Path) -> None:
    bundle = ServedBundle(
        Bundle(make_bundle(tmp_path / "steps")),
        Versions(tmp_path / "versions"),
        execution_settings("bf16"),
    )
    assert bundle.opened(bundle.bundle(), {"overlap": 0.5}).part("inferer").execution.amp == "bf16"


def test_a_bundle_without_a_table_is_served_with_its_channels(tmp_path: Path) -> None:
    channels = {"0": "background", "1": "Liver", "2": "spleen"}
    bundle = make_bundle(tmp_path / "organs", table="", channel_def=channels)
    assert served(bundle, tmp_path).labels == {"liver": 1, "spleen": 2}


@pytest.mark.parametrize("nested", ["state_dict", "model"])
def test_weights_fit_or_are_refused(nested: str, tmp_path: Path) -> None:
    write_cases(tmp_path / "studies")
    image = tmp_path / "studies" / "ras.nii.gz"
    good = served(make_bundle(tmp_path / "nested", state={nested: steps(31)}), tmp_path)
    assert good.predict(image).voxels.max() == 3
    wrong = {f"other.{key}": value for key, value in steps(31).items()}
    bad = served(make_bundle(tmp_path / "wrong", state={nested: wrong}), tmp_path)
    with pytest.raises(WeightsError, match="does not fit"):
        bad.predict(image)


def test_a_broken_study_says_what_is_wrong(tmp_path: Path) -> None:
    bundle = served(make_bundle(tmp_path / "steps"), tmp_path)
    (tmp_path / "broken.nii.gz").write_bytes(b"no image" * 100)
    with pytest.raises(RequestError, match=r"broken\.nii\.gz"):
        bundle.predict(tmp_path / "broken.nii.gz")
    with pytest.raises(StudyError):
        bundle.predict(tmp_path / "missing.nii.gz")


def test_uncertainty_is_entropy_in_nats(tmp_path: Path) -> None:
    channels = {"0": "background", "1": "a", "2": "b", "3": "c"}
    clean, noise = tmp_path / "clean.nii.gz", tmp_path / "noise.nii.gz"
    ones = np.linspace(0.9999, 1.0001, 12 * 14 * 16, dtype=np.float32).reshape(12, 14, 16)
    nib.save(nib.Nifti1Image(ones, np.eye(4)), clean)
    random = np.random.default_rng(0).uniform(0, 3, (12, 14, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(random, np.eye(4)), noise)
    bundle = served(make_bundle(tmp_path / "four", table="", channel_def=channels), tmp_path)
    # At 1 the logits are 0, 4, 0, -12 + const: the entropy of softmax(-4, 0, -4, -16).
    p = torch.softmax(torch.tensor([-4.0, 0.0, -4.0, -16.0]).double(), 0)
    assert bundle.uncertainty(clean) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-3)
    flat = {"weight": torch.zeros(4, 1, 1, 1, 1), "bias": torch.zeros(4)}
    guess = make_bundle(tmp_path / "guess", table="", channel_def=channels, state=flat)
    assert served(guess, tmp_path).uncertainty(clean) == pytest.approx(np.log(4), rel=1e-4)
    assert bundle.uncertainty(clean) < bundle.uncertainty(noise) < np.log(4)
    with pytest.raises(RequestError, match="no uncertainty"):
        served(make_restorer(tmp_path / "restorer"), tmp_path).uncertainty(clean)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_a_result_lies_where_its_study_lies(name: str, extension: str, tmp_path: Path) -> None:
    truth = write_cases(tmp_path)[name].astype(np.uint8)
    study = read_study(only_study(tmp_path / f"{name}.nii.gz"))
    path = write_volume(tmp_path / f"result{extension}", truth, study, is_label_map=True)
    image, result = SimpleITK.ReadImage(str(tmp_path / f"{name}.nii.gz")), SimpleITK.ReadImage(str(path))
    assert result.GetPixelID() == SimpleITK.sitkUInt8
    assert result.GetSize() == image.GetSize()
    for of in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(result, of)(), getattr(image, of)(), atol=1e-4)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(result), truth.transpose(2, 1, 0))
    assert study.grid is not None
    np.testing.assert_array_equal(read_label_map(path, study.grid), truth)


def test_labels_come_onto_a_grid_with_other_axes() -> None:
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    turned = np.ascontiguousarray(labels.transpose(2, 0, 1)[::-1])
    to_world = affine @ np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 3], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(
        labels_on(Grid((2, 3, 4), affine), turned, Grid(turned.shape, to_world)), labels
    )


def test_an_image_is_no_label_map(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), 0.5, np.float32), np.eye(4)), tmp_path / "i.nii.gz")
    with pytest.raises(StudyError, match="not a label map"):
        read_label_map(tmp_path / "i.nii.gz", Grid((4, 5, 6), np.eye(4)))


def test_a_trained_version_is_a_bundle_beside_the_pristine_one(tmp_path: Path) -> None:
    root = make_bundle(tmp_path / "steps", changelog={"1.0.0": "first"})
    (root / "docs").mkdir()
    (root / "docs" / "README.md").write_text("# Steps\n")
    pristine = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}
    bundle = served(root, tmp_path)
    network = bundle.evaluator(bundle.bundle(), {}).network
    with torch.no_grad():
        network.get_parameter("bias").add_(1)
    facts = Training(3, 1, 2, 0.5, 0.75, "2020-01-02T03:04:05+00:00")
    first = bundle.versions.keep(bundle.bundle(), network, facts)
    second = bundle.versions.keep(first, network, facts)
    assert [*bundle.bundles()] == [second.version, first.version, "1.0.0"]
    assert (first.version, second.version) == ("1.0.0+label.1", "1.0.0+label.2")
    assert pristine == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in pristine}
    assert (
        second.facts["weights_sha256"] == sha256_of(second.weights) != sha256_of(root / "models" / "model.pt")
    )
    assert second.facts["trained"]["from"] == first.version
    assert "0.750" in second.facts["quality"]
    card = (second.path / "docs" / "README.md").read_text()
    assert "1.0.0+label.2" in card and card.endswith("# Steps\n")
    archive = zipfile.ZipFile(export(second, tmp_path))
    assert archive.testzip() is None
    assert json.loads(archive.read("steps/configs/metadata.json"))["version"] == second.version
    assert bundle.bundle().version == second.version and bundle.bundle("1.0.0").path == root
    unmeasured = bundle.versions.keep(second, network, Training(1, 0, 2, None, None, facts.date))
    worse = bundle.versions.keep(second, network, Training(3, 1, 2, 0.75, 0.5, facts.date))
    assert bundle.bundle().version == second.version
    assert {unmeasured.version, worse.version} < set(bundle.bundles())
    with pytest.raises(RequestError, match=r"1\.0\.0\+label\.1"):
        bundle.bundle("9")
