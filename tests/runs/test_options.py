"""Options are checked at once, and what is wrong with them is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.runs import options


def test_the_cpu_needs_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_has_driver", lambda: False)
    assert options.checked_device(" CPU ") == "cpu" and options.checked_device("auto") == "auto"
    for name in ("cuda", "cuda:1", "gpu"):
        monkeypatch.setattr(options.sys, "platform", "linux")
        with pytest.raises(MedvitError, match=f"device {name}: torch finds no CUDA GPU on this machine"):
            options.checked_device(name)


@pytest.mark.parametrize(
    ("name", "hint"), [("cdua", " (did you mean 'cuda'?)"), ("cuda:x", ""), ("tpu7", "")]
)
def test_an_unknown_device_is_named(name: str, hint: str) -> None:
    with pytest.raises(MedvitError) as error:
        options.checked_device(name)
    assert str(error.value).startswith(f"there is no device {name!r}{hint}") or "did you mean" in str(
        error.value
    )
    assert "choose auto, cpu, cuda, cuda:N, gpu or mps" in str(error.value)


def test_a_device_that_the_machine_lacks_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(options, "_has_driver", lambda: True)
    monkeypatch.setattr(options, "_torch_has", lambda kind: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.checked_device("CUDA:1") == "cuda:1"
    with pytest.raises(MedvitError, match="this machine has 2 CUDA devices, cuda:0 to cuda:1, not cuda:2"):
        options.checked_device("cuda:2")


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2.0, float("nan")])
def test_windows_cannot_overlap_wholly(overlap: float) -> None:
    with pytest.raises(MedvitError, match="at least 0 and below 1"):
        options.checked_overlap(overlap)
    assert options.checked_overlap(0.0) == 0.0 and options.checked_overlap(None) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"amp": "off", "backend": "torch"}, {}),
        (
            {"amp": "bf16", "tf32": True},
            {
                "inferer#execution": {"_target_": "medvit.inference.Execution", "amp": "bf16", "tf32": True},
                "writer#settings#amp": "bf16",
                "writer#settings#tf32": True,
            },
        ),
        (
            {"backend": "auto"},
            {
                "inferer#execution": {
                    "_target_": "medvit.bundles.execution_for",
                    "bundle_root": "@bundle_root",
                    "device": "@device",
                },
                "writer#settings#backend": "$@inferer#execution.backend",
            },
        ),
    ],
)
def test_only_what_differs_from_the_default_is_set(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert options.execution_settings(**given) == expected


def test_misspelt_precisions_and_backends_get_a_suggestion() -> None:
    with pytest.raises(MedvitError, match=r"no precision 'bf61' \(did you mean 'bf16'\?\)"):
        options.execution_settings("bf61")
    with pytest.raises(MedvitError, match=r"no backend 'onnx_runtime' \(did you mean 'onnxruntime'\?\)"):
        options.execution_settings(backend="onnx_runtime")


def test_structures_are_listed_with_commas() -> None:
    assert options.named_structures(" hippocampus, left_amygdala,") == ["hippocampus", "left_amygdala"]
    assert options.named_structures([" a ", ""]) == ["a"] and options.named_structures(()) == []
    for empty in ("", " , ", [""]):
        with pytest.raises(MedvitError, match="names no structure"):
            options.named_structures(empty)


def test_an_output_must_be_a_folder_or_become_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert options.checked_output(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert not (tmp_path / "new").exists()
    for there in (file, file / "below"):
        with pytest.raises(MedvitError, match="file is a file; give a folder for the results"):
            options.checked_output(there)


def test_one_of_several_inputs_must_exist(tmp_path: Path) -> None:
    assert options.checked_inputs([str(tmp_path), "nowhere.nii"])
    assert options.checked_inputs(["*.nii"])
    with pytest.raises(MedvitError, match=r"a\.nii, b\.nii: does not exist"):
        options.checked_inputs(["a.nii", "b.nii"])


def test_images_come_from_a_folder_or_an_address(tmp_path: Path) -> None:
    assert options.checked_images("https://pacs/dicom-web") == "https://pacs/dicom-web"
    assert options.checked_images(str(tmp_path)) == str(tmp_path)
    with pytest.raises(MedvitError, match="is neither a folder nor an address"):
        options.checked_images("nowhere")


@pytest.mark.parametrize("code", ["en", "de_CH.UTF-8", "FR-ca"])
def test_a_locale_stands_for_its_language(code: str) -> None:
    assert options.checked_language(code) == code
    with pytest.raises(MedvitError, match="choose one of de, en, fr"):
        options.checked_language("xx")


def test_earlier_studies_must_be_json(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.json", tmp_path / "b.json"
    good.write_text(json.dumps({}))
    bad.write_text("{")
    assert options.checked_priors([f"{good}@2024-05-01"]) == [f"{good}@2024-05-01"]
    with pytest.raises(MedvitError, match=r"b\.json: not a readable measurements\.json \(it is not JSON\)"):
        options.checked_priors([str(good), str(bad)])
    with pytest.raises(MedvitError, match=r"c\.json: not a readable .*No such file"):
        options.checked_priors([str(tmp_path / "c.json")])
