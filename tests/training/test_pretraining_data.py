"""The studies of a pre-training: what is refused, left out, and taken from networks by name."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from medvit.errors import MedvitError
from medvit.studies import Found, Study, read_study
from medvit.studies.study import Series
from medvit.training import Base, PretrainingChoices, pretrain_bundle, pretraining, pretraining_data
from medvit.training.encoder_file import read_encoder
from medvit.training.pretraining_data import Preparation, contrast_of, prepare_images
from tests.training.test_pretraining import SMALL, write_studies

BASE, OTHER = (
    Base(
        name, {"_target_": "medvit.networks.SegFormer3D", "out_channels": 4, **SMALL}, (32, 32, 32),
        slicewise=False, lateral=False,
    )
    for name in ("SegFormer3D (tiny)", "SegFormer3D (small)")
)  # fmt: skip
QUIET = Console(quiet=True)


def found_in(folder: Path, **facts: Any) -> Preparation:
    """The studies of a folder, with facts as DICOM states them."""
    files = sorted(folder.glob("*.nii.gz"))
    studies = [Study(f.name, (Series((f,), "nifti", dict(facts)),)) for f in files]
    return Preparation(Found(tuple(studies)), lambda data: {"image": data["image"].image}, None)


def test_studies_of_several_contrasts_are_refused(tmp_path: Path) -> None:
    folder = write_studies(tmp_path / "in", count=6)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"sub-{number}_{'T1w' if number else 'FLAIR'}.nii.gz")
    with pytest.raises(MedvitError, match=r"mix contrasts: t1n \(.*\), t2f \(.*\); pre-train on one"):
        prepare_images(Preparation.of_network([str(folder)], slicewise=False), tmp_path, QUIET)


@pytest.mark.parametrize(
    ("description", "contrast"),
    [("t1_mprage_sag_p2", "t1n"), ("Ax T2 FLAIR", "t2f"), ("T2w TSE", "t2w"), ("localizer", ""), ("", "")],
)
def test_the_contrast_of_a_series_is_read_from_its_description(description: str, contrast: str) -> None:
    facts = {"series_description": description}
    assert contrast_of(Study("a", (Series((), "dicom", facts),))) == contrast


def test_a_series_with_contrast_agent_is_another_contrast() -> None:
    facts = {"series_description": "t1_mprage", "contrast": True}
    assert contrast_of(Study("a", (Series((), "dicom", facts),))) == "t1c"


def test_studies_of_another_modality_than_the_bundles_are_left_out(tmp_path: Path) -> None:
    folder = write_studies(tmp_path / "in", count=5)
    preparation = found_in(folder, modality="CT")
    assert prepare_images(preparation, tmp_path, QUIET).modality == "CT"
    with pytest.raises(MedvitError, match="0 usable studies"):
        prepare_images(
            Preparation(preparation.found, preparation.transform, None, 2, ("MR",), "heads"), tmp_path, QUIET
        )


def test_the_sessions_of_a_patient_are_kept_together(tmp_path: Path) -> None:
    folder = write_studies(tmp_path / "in", count=6)
    names = ["sub-1_ses-1_T1w", "sub-1_ses-2_T1w", "sub-2_T1w", "10005_1000001", "10005_1000002", "other"]
    for file, name in zip(sorted(folder.iterdir()), names, strict=True):
        file.rename(folder / f"{name}.nii.gz")
    prepared = prepare_images(Preparation.of_network([str(folder)], slicewise=False), tmp_path, QUIET)
    assert sorted(prepared.patients) == ["10005", "10005", "other", "sub-1", "sub-1", "sub-2"]


def test_an_image_that_its_preparation_makes_constant_is_left_out(tmp_path: Path) -> None:
    preparation = found_in(write_studies(tmp_path / "in", count=5))
    clipped = Preparation(preparation.found, lambda data: {"image": data["image"].image.clamp(max=-1)}, None)
    with pytest.raises(MedvitError, match="0 usable studies"):
        prepare_images(clipped, tmp_path, QUIET)


def test_a_network_by_name_sees_the_median_spacing_and_a_range_of_one(tmp_path: Path) -> None:
    preparation = Preparation.of_network([str(write_studies(tmp_path / "in"))], slicewise=True)
    assert preparation.spacing == [2.0, 2.0, 2.0] and preparation.slice_axis == 2
    prepared = prepare_images(preparation, tmp_path, QUIET)
    first = np.load(prepared.files[0])
    assert first.shape == (1, 34, 34, 34) and (first.min(), first.max()) == (0, 1)


@pytest.mark.parametrize(("modality", "expected"), [("CT", [0, 1 / 4, 1 / 2, 1]), ("", [0, 1 / 6, 1 / 3, 1])])
def test_ct_is_seen_from_air_to_bone_and_other_images_by_their_percentiles(
    modality: str, expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.repeat([-1000.0, -500.0, 0.0, 2000.0], 128).reshape(8, 8, 8)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    found = found_in(tmp_path, **({"modality": modality} if modality else {})).found
    monkeypatch.setattr(pretraining_data, "find_studies", lambda inputs: found)
    preparation = Preparation.of_network([], slicewise=False)
    image = preparation.transform({"image": read_study(found.studies[0])})["image"]
    assert image.unique().tolist() == pytest.approx(expected)


def test_the_window_of_a_network_by_name_is_fitted_to_the_studies(tmp_path: Path) -> None:
    inputs, path = [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors"
    choices = PretrainingChoices(steps=1, batch_size=1, device="cpu")
    pretrain_bundle(replace(BASE, window=(64, 64, 64)), inputs, path, choices)
    assert read_encoder(path)[1].window == [48, 48, 48]  # studies of 34 voxels, in steps of 16


def test_a_network_by_name_is_pre_trained_at_the_spacing_that_is_asked_for(tmp_path: Path) -> None:
    choices = PretrainingChoices(steps=2, batch_size=1, spacing=(1.5, 2.0, 2.0), device="cpu")
    inputs, path = [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors"
    pretrain_bundle(BASE, inputs, path, choices)
    header = read_encoder(path)[1]
    assert (header.base, header.start, header.spacing) == ("SegFormer3D (tiny)", "scratch", [1.5, 2.0, 2.0])
    with pytest.raises(MedvitError, match=r"SegFormer3D \(tiny\) is not one"):
        pretrain_bundle(BASE, inputs, tmp_path / "f.safetensors", PretrainingChoices(start="weights"))


def test_it_goes_on_with_the_same_windows_where_another_device_would_afford_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, path = [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors"
    base = replace(BASE, window=(64, 64, 64))
    choices = PretrainingChoices(steps=1, batch_size=1, device="cpu")

    def interrupt(*given: Any) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "affordable_on", lambda *given: lambda edges: max(edges) <= 32)
        patch.setattr(pretraining._Run, "_take_step", interrupt)
        with pytest.raises(MedvitError, match="interrupted after 0 steps"):
            pretrain_bundle(base, inputs, path, choices)
    pretrain_bundle(base, inputs, path, choices, resume=True)
    assert read_encoder(path)[1].window == [32, 32, 32]  # and not 48, as without --resume


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory"])
def test_windows_that_do_not_fit_into_memory_are_a_sentence(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **more: Any) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(pretraining, "clipped_gradients", full)
    inputs, path = [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors"
    choices = PretrainingChoices(steps=1, batch_size=2, patch_size=(32, 32, 32), device="cpu")
    with pytest.raises(MedvitError, match=r"2 window.* of 32 x 32 x 32 voxels .* memory of cpu; start again"):
        pretrain_bundle(BASE, inputs, path, choices)
    assert not list(tmp_path.glob("e.safetensors*"))
    words = "another fault"
    with pytest.raises(RuntimeError, match="another fault"):
        pretrain_bundle(BASE, inputs, path, choices)


def test_after_a_full_disk_resuming_needs_no_further_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, path = [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors"
    choices = PretrainingChoices(steps=2, batch_size=1, device="cpu")

    def full(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save", full)
        with pytest.raises(MedvitError, match="No space left on device; free space, then resume"):
            pretrain_bundle(BASE, inputs, path, choices)
    assert not path.exists() and not path.with_suffix(".html").exists()
    with pytest.raises(MedvitError, match=r"other settings \(base\)"):
        pretrain_bundle(OTHER, inputs, path, choices, resume=True)
    changed = replace(BASE, network=BASE.network | {"decoder_dim": 24})  # as a recipe that was edited
    with pytest.raises(MedvitError, match=r"other settings \(network\)"):
        pretrain_bundle(changed, inputs, path, choices, resume=True)
    more = [*inputs, str(write_studies(tmp_path / "more", count=7))]
    with pytest.raises(MedvitError, match=r"other settings \(studies\)"):
        pretrain_bundle(BASE, more, path, choices, resume=True)
    monkeypatch.setattr(pretraining._Run, "_take_step", full)
    assert pretrain_bundle(BASE, inputs, path, choices, resume=True).is_file()
    assert path.stat().st_mode & 0o777 == path.with_suffix(".html").stat().st_mode & 0o777
