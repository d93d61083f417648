"""One call from an image of any kind to labels, names, volumes, findings and files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor

import medvit
from medvit.bundles import find_bundle
from medvit.errors import MedvitError
from medvit.runs import run_bundle
from tests.phantoms import COARSE

BRAIN = "segformer3d_brain"
AFFINE = np.array([[0, -4.0, 0, 40], [4, 0, 0, -30], [0, 0, 4, 12], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 900, (20, 22, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def head(voxels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "head.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return path


@pytest.fixture(scope="module")
def segmenter() -> medvit.Segmenter:
    return medvit.Segmenter(BRAIN, device="cpu", **COARSE)


def test_every_kind_of_image_gives_the_same_labels(
    segmenter: medvit.Segmenter, head: Path, voxels: np.ndarray
) -> None:
    expected = segmenter(head).labels
    assert expected.shape == voxels.shape and expected.dtype == np.uint8 and expected.any()
    meta = MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(AFFINE))
    for image in (str(head), head.parent, nib.load(head), SimpleITK.ReadImage(str(head)), meta):
        np.testing.assert_array_equal(segmenter(image).labels, expected)
    np.testing.assert_array_equal(segmenter(voxels, AFFINE).labels, expected)


def test_a_result_tells_names_volumes_and_findings(segmenter: medvit.Segmenter, head: Path) -> None:
    result = segmenter(head)
    assert result.names[1] == "left cerebral white matter"
    assert set(result.volumes_ml) == set(result.names.values())
    value = {name: v for v, name in result.names.items()}["cerebrospinal fluid"]
    expected = (result.labels == value).sum() * 0.064
    assert result.volumes_ml["cerebrospinal fluid"] == pytest.approx(expected)
    assert result.light == "red"
    assert "noise alone" in result.findings[0]
    assert "intracranial volume" in result.findings[1].lower()
    assert repr(result) == f"SegmentedImage('head', 20 x 22 x 24 voxels, by {BRAIN})"
    assert repr(segmenter) == f"Segmenter({BRAIN!r}, device='cpu')"


def test_results_lie_where_the_input_lies(segmenter: medvit.Segmenter, head: Path) -> None:
    result = segmenter(head)
    image = result.to_nibabel()
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_array_equal(np.asarray(image.dataobj), result.labels)
    itk, source = result.to_sitk(), SimpleITK.ReadImage(str(head))
    for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(itk, of)(), getattr(source, of)(), atol=1e-5)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0), result.labels)


def test_save_writes_what_the_command_writes(
    segmenter: medvit.Segmenter, head: Path, voxels: np.ndarray, tmp_path: Path
) -> None:
    run_bundle(find_bundle(BRAIN), [head], tmp_path / "run", device="cpu", **COARSE)
    written = {p.name for p in (tmp_path / "run" / "head").iterdir()}
    folder = segmenter(head).save(tmp_path / "api")
    assert folder == tmp_path / "api" / "head"
    assert {p.name for p in folder.iterdir()} == written
    for name in ("labels.nii.gz", "labels.json"):
        assert (folder / name).read_bytes() == (tmp_path / "run" / "head" / name).read_bytes()
    memory = segmenter(voxels, AFFINE, name="mine").save(tmp_path / "api")
    assert memory.name == "mine"
    np.testing.assert_array_equal(
        nib.load(memory / "labels.nii.gz").get_fdata(), nib.load(folder / "labels.nii.gz").get_fdata()
    )


def test_save_keeps_results_of_another_input_and_what_no_run_has_made(
    segmenter: medvit.Segmenter, voxels: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scan.dcm").write_bytes(b"the only copy")
    result, other = segmenter(voxels, AFFINE), segmenter(voxels[::-1].copy(), AFFINE)
    mirrored = segmenter(voxels, np.diag([-1.0, 1, 1, 1]) @ AFFINE)
    with pytest.raises(MedvitError, match=r"mine: holds files that no run has made.*overwrite=True"):
        segmenter(voxels, AFFINE, name="mine").save(tmp_path)
    assert (tmp_path / "mine" / "scan.dcm").read_bytes() == b"the only copy"
    stored = (result.save(tmp_path) / "labels.nii.gz").read_bytes()
    assert (result.save(tmp_path) / "labels.nii.gz").read_bytes() == stored
    for another in (other, mirrored):
        with pytest.raises(MedvitError, match="image: holds results of another input of the same name"):
            another.save(tmp_path)
    assert (tmp_path / "image" / "labels.nii.gz").read_bytes() == stored
    assert (other.save(tmp_path, overwrite=True) / "labels.nii.gz").read_bytes() != stored


def test_chosen_structures_are_alone_in_labels_names_volumes_and_files(
    segmenter: medvit.Segmenter, head: Path, tmp_path: Path
) -> None:
    whole = segmenter(head)
    chosen = {"left cerebral cortex", "right cerebral cortex", "brain-stem"}
    values = {v for v, name in whole.names.items() if name in chosen}
    for given in (["cerebral_cortex", "brain-stem"], "cerebral cortex, brain-stem,"):
        some = medvit.Segmenter(BRAIN, "cpu", structures=given, separate=True, **COARSE)(head)
        assert set(some.names.values()) == chosen == set(some.volumes_ml)
        np.testing.assert_array_equal(
            some.labels, np.where(np.isin(whole.labels, [*values]), whole.labels, 0)
        )
    assert some.volumes_ml["brain-stem"] == whole.volumes_ml["brain-stem"]
    folder = some.save(tmp_path)
    np.testing.assert_array_equal(nib.load(folder / "labels.nii.gz").get_fdata(), some.labels)
    assert {p.name for p in (folder / "structures").iterdir()} >= {"brain-stem.nii.gz"}
    with pytest.raises(MedvitError, match="did you mean 'brain-stem'"):
        medvit.Segmenter(BRAIN, "cpu", structures=["brainstem"], **COARSE)
    with pytest.raises(MedvitError, match="restores images and has no structures"):
        medvit.Segmenter("rat_ct_denoise", "cpu", separate=True)


def test_threads_share_a_segmenter(segmenter: medvit.Segmenter, voxels: np.ndarray) -> None:
    images = [voxels, voxels[::-1].copy(), voxels[:, ::-1].copy()]
    one_by_one = [segmenter(image, AFFINE).labels for image in images]
    with ThreadPoolExecutor(3) as threads:
        at_once = list(threads.map(lambda image: segmenter(image, AFFINE).labels, images))
    for one, other in zip(one_by_one, at_once, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_restorer_gives_an_image() -> None:
    values = np.full((40, 40, 4), -1000.0, np.float32)
    values[8:32, 8:32] = np.random.default_rng(0).normal(40, 30, (24, 24, 4))
    result = medvit.restore(values, "rat_ct_denoise", np.eye(4), device="cpu", overlap=0.0)
    assert result.image.shape == values.shape and result.image.dtype == np.float32
    assert result.image[10:30, 10:30].std() < values[10:30, 10:30].std()
    with pytest.raises(MedvitError, match=r"use medvit\.restore"):
        medvit.segment(values, "rat_ct_denoise", np.eye(4), device="cpu", overlap=0.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, v: s(v), "an array needs its affine"),
        (lambda s, v: s(v, np.diag([4.0, 4, 0, 1])), "invertible matrix"),
        (lambda s, v: s(v, AFFINE.T), "last row 0, 0, 0, 1"),
        (lambda s, v: s(nib.Nifti1Image(v, AFFINE), AFFINE), "affine of its own"),
        (lambda s, v: s(v[0], AFFINE), "three axes"),
        (
            lambda s, v: s(np.stack([v, v]), AFFINE),
            "holds 2 images where segformer3d_brain takes 1;",
        ),
        (lambda s, v: medvit.Segmenter(BRAIN, structures=","), "names no structure"),
        (lambda s, v: medvit.Segmenter(BRAIN, structures=""), "names no structure"),
        (lambda s, v: s(v + 1j, AFFINE), "real numbers"),
        (lambda s, v: s(nib.Nifti1Image(np.stack([v, v], -1), AFFINE)), "one volume"),
        (lambda s, v: s(np.where(v > 800, np.nan, v), AFFINE), "voxels are NaN or infinite; replace them"),
        (lambda s, v: s({"image": v}), "builtins.dict is not an image"),
        (lambda s, v: medvit.Segmenter(BRAIN, overlpa=0.1), r"no option 'overlpa' \(did you mean 'overlap'"),
        (lambda s, v: medvit.Segmenter(BRAIN, overlap=1.5), "below 1, not 1.5"),
        (lambda s, v: medvit.Segmenter(BRAIN, overlap="half"), "below 1, not 'half'"),
        (lambda s, v: medvit.Segmenter(BRAIN, force="no"), "option 'force' must be True or False, not 'no'"),
        (lambda s, v: medvit.Segmenter(BRAIN, trust="no"), "option 'trust' must be True or False, not 'no'"),
        (lambda s, v: medvit.Segmenter(BRAIN, tf32="off"), "option 'tf32' must be True or False"),
        (lambda s, v: medvit.Segmenter(BRAIN, separate="no"), "option 'separate' must be True or False"),
        (lambda s, v: medvit.Segmenter(BRAIN, amp=True), "no precision True; choose"),
        (lambda s, v: medvit.Segmenter(BRAIN, device=torch.device("meta")), "no device 'meta'"),
        (lambda s, v: medvit.Segmenter(BRAIN, device="banana"), "no device 'banana'"),
        (lambda s, v: medvit.Segmenter("segformer_brain"), "no bundle"),
    ],
)
def test_what_cannot_be_is_refused(call, words: str, segmenter: medvit.Segmenter, voxels: np.ndarray) -> None:
    with pytest.raises(MedvitError, match=words):
        call(segmenter, voxels)


def test_importing_stays_light() -> None:
    code = "import sys, medvit; medvit.Segmenter; print({'torch', 'monai'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_precision_is_that_of_the_inferer_or_refused(voxels: np.ndarray) -> None:
    half = medvit.Segmenter(BRAIN, device="cpu", amp="bf16", **COARSE)
    result = half(voxels, AFFINE)
    assert result.report.provenance["settings"]["amp"] == "bf16"
    with pytest.raises(MedvitError, match="fp16 needs a GPU"):
        medvit.Segmenter(BRAIN, device="cpu", amp="fp16", **COARSE)
    with pytest.raises(MedvitError, match="no precision 'int8'"):
        medvit.Segmenter(BRAIN, device="cpu", amp="int8", **COARSE)


def test_several_studies_come_in_order_and_an_exception_stays_with_its_study(
    segmenter: medvit.Segmenter, head: Path, voxels: np.ndarray, tmp_path: Path
) -> None:
    expected = segmenter(head).labels
    (tmp_path / "broken.nii.gz").write_bytes(b"not an image")
    other = nib.Nifti1Image(voxels[::-1].copy(), AFFINE)
    taken = []

    def studies() -> Iterator[object]:
        for study in (head, tmp_path / "broken.nii.gz", other, "nowhere.nii.gz", head):
            taken.append(study)
            yield study

    results = segmenter.map(studies(), return_exceptions=True)
    first = next(results)
    assert len(taken) <= 4, "studies are taken as they are needed"
    results = [first, *results]
    assert [isinstance(result, Exception) for result in results] == [False, True, False, True, False]
    np.testing.assert_array_equal(results[0].labels, expected)
    np.testing.assert_array_equal(results[2].labels, segmenter(other).labels)
    np.testing.assert_array_equal(results[4].labels, expected)
    assert "broken.nii.gz" in str(results[1]) and "nowhere.nii.gz" in str(results[3])
    assert not np.array_equal(results[2].labels, expected)
    with pytest.raises(MedvitError, match=r"broken\.nii\.gz"):
        list(segmenter.map([tmp_path / "broken.nii.gz", head]))
    # A loop that is left early, or that uses the segmenter itself, leaves it free.
    for result in segmenter.map([head, head, head]):
        np.testing.assert_array_equal(segmenter(head).labels, result.labels)
        break
    assert list(segmenter.map([])) == []


def test_an_image_in_memory_that_cannot_be_a_study_costs_itself_alone(
    segmenter: medvit.Segmenter, voxels: np.ndarray
) -> None:
    good = nib.Nifti1Image(voxels, AFFINE)
    results = list(segmenter.map([good, voxels, good], return_exceptions=True))
    assert [isinstance(result, MedvitError) for result in results] == [False, True, False]
    assert "needs its affine" in str(results[1])
    with pytest.raises(MedvitError, match="needs its affine"):
        list(segmenter.map([good, voxels]))
