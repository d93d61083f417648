"""`medvit train` from a manifest to a bundle that runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from rich.console import Console

from medvit.bundles import Bundle, find_bundle, open_bundle
from medvit.errors import MedvitError
from medvit.evaluation import Options, Pair, measure_pair
from medvit.label.serving import ServedBundle
from medvit.label.versions import Versions
from medvit.networks import load_weights
from medvit.runs import run_bundle
from medvit.studies import sha256_of
from medvit.training import Base, Choices, PatchDataset, Plan, train_bundle
from medvit.training.history import read_history
from medvit.training.workspace import Workspace
from tests.bundles.test_bundles import SCHEMA
from tests.processes import run_in_two_processes
from tests.training.cases import QUICK, base_bundle, boxes, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("trained")
    bundle = train_bundle(base_bundle(folder / "base"), data, folder / "mine", Choices(**QUICK))
    assert bundle is not None
    return bundle


def test_the_bundle_is_whole_and_says_what_it_was_measured_at(trained: Bundle, tmp_path: Path) -> None:
    assert [p.name for p in trained.path.parent.iterdir() if "mine" in p.name] == ["mine"]
    for part in (
        "LICENSE", "docs/README.md", "docs/training.png", "configs/train.json", "configs/logging.conf"
    ):  # fmt: skip
        assert (trained.path / part).is_file(), part
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    metadata = str(trained.path / "configs" / "metadata.json")
    verify_metadata(meta_file=metadata, filepath=str(tmp_path / "schema.json"))
    verify_net_in_out(
        net_id="network_def", meta_file=metadata, config_file=str(trained.config("inference")),
        bundle_root=str(trained.path), device="cpu",
    )  # fmt: skip
    assert sha256_of(trained.weights) == trained.facts["weights_sha256"]
    assert trained.label_table is not None
    assert [s.name for s in trained.label_table] == ["low box", "high box"]
    figures = trained.metadata["eval_metrics"]
    assert figures["mean_dice_validation"] == pytest.approx(
        (figures["dice_low_box"] + figures["dice_high_box"]) / 2, abs=1e-3
    )
    assert (
        f"mean Dice {figures['mean_dice_validation']:.2f} over 2 structures on 1" in trained.facts["quality"]
    )
    text = (trained.path / "docs" / "README.md").read_text()
    assert "no tensor of base fits" in text and "RandGaussianNoise (prob 0.15, std 0.05)" in text
    assert list((trained.path / "docs" / "events").glob("events.out.tfevents*"))


def test_it_finds_what_it_was_trained_on_and_writes_the_values_of_the_training_data(
    trained: Bundle, data: Path, tmp_path: Path
) -> None:
    found = find_bundle(str(trained.path), trust=True)
    assert run_bundle(found, [data.parent / "case1_0000.nii.gz"], tmp_path, report=False) == 0
    labels = np.asarray(nib.load(tmp_path / "case1_0000" / "labels.nii.gz").dataobj)
    truth = boxes(shift=1)
    for value, drawn in ((3, truth == 3), (7, truth == 7)):
        assert 2 * ((labels == value) & drawn).sum() / ((labels == value).sum() + drawn.sum()) > 0.9
    assert json.loads((tmp_path / "case1_0000" / "labels.json").read_text())["labels"] == {
        "3": "low box", "7": "high box",
    }  # fmt: skip
    assert "3, 7, as in the data set" in (trained.path / "docs" / "README.md").read_text()
    scores = measure_pair(
        Pair("case1", tmp_path / "case1_0000" / "labels.nii.gz", data.parent / "case1_seg.nii.gz"),
        None,
        Options(),
    )
    assert min(values["dice"] for values in scores.values.values()) > 0.9 and set(scores.values) == {
        "low box", "high box",
    }  # fmt: skip


def test_it_is_served_like_ours(trained: Bundle, tmp_path: Path) -> None:
    served = ServedBundle(trained, Versions(tmp_path))
    assert served.labels == {"low box": 1, "high box": 2}


def test_its_training_workflow_goes_on_from_its_weights(trained: Bundle, data: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(trained.config("train")), workflow_type="train", bundle_root=str(trained.path),
        manifest=str(data), dataset_dir=str(data.parent), output_dir=str(tmp_path), logging_file=False,
        epochs=1, epoch_length=1, learning_rate=1e-9, device="$torch.device('cpu')",
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    best = workflow.parser.get_parsed_content("best")
    assert best.score == pytest.approx(trained.metadata["eval_metrics"]["mean_dice_validation"], abs=0.02)
    assert (tmp_path / "model.pt").is_file()


def test_an_interrupted_training_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, output, drawn = base_bundle(tmp_path / "base"), tmp_path / "mine", []
    original = PatchDataset.__getitem__

    def interrupted(self: PatchDataset, index: int) -> dict:
        drawn.append(self.offset + index)
        if len(drawn) == 18:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(PatchDataset, "__getitem__", interrupted)
    choices = Choices(**QUICK | {"epoch_length": 5})
    with pytest.raises(MedvitError, match="--resume"):
        train_bundle(base, data, output, choices)
    assert not output.exists()
    with pytest.raises(MedvitError, match="continue it with --resume or remove it"):
        train_bundle(base, data, output, choices)
    drawn.clear()
    drawn.extend([-1] * 18)
    bundle = train_bundle(base, data, output, resume=True)
    # One epoch of five steps of two windows was whole; nothing of it is done again.
    assert drawn[18:] == list(range(10, 30))
    assert bundle is not None and bundle.facts["trained"]["epochs"] == 3
    with pytest.raises(MedvitError, match="no training to resume"):
        train_bundle(base, data, tmp_path / "other", resume=True)


def test_training_stops_when_nothing_is_gained_and_keeps_the_best(data: Path, tmp_path: Path) -> None:
    idle = QUICK | {"learning_rate": 1e-12, "epochs": 9, "epoch_length": 1, "patience": 2}
    console = Console(file=(tmp_path / "log").open("w"), width=200)
    bundle = train_bundle(
        base_bundle(tmp_path / "base"), data, tmp_path / "mine", Choices(**idle), console=console
    )
    assert bundle is not None and bundle.facts["trained"]["epochs"] == 3
    assert "the weights are those after epoch 1 " in (bundle.path / "docs" / "README.md").read_text()


def test_studies_of_several_images(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "data", 2, channels=2)
    bundle = train_bundle(base_bundle(tmp_path / "base"), manifest, tmp_path / "mine", Choices(**QUICK))
    assert bundle is not None
    assert json.loads(bundle.config("inference").read_text())["channels"] == ["t1n", "t2w"]
    images = sorted(str(p) for p in (tmp_path / "data").glob("case0_000*"))
    assert run_bundle(bundle, images, tmp_path / "out", report=False) == 0
    assert (tmp_path / "out" / "case0" / "labels.nii.gz").is_file()


def test_a_two_dimensional_network_learns_slices(data: Path, tmp_path: Path) -> None:
    base = base_bundle(tmp_path / "base")
    config = json.loads(base.config("inference").read_text())
    config["network_def"]["_target_"] = "torch.nn.Conv2d"
    config["inferer"] |= {"_target_": "medvit.inference.SliceInferer", "roi_size": [12, 12]}
    base.config("inference").write_text(json.dumps(config))
    quick = QUICK | {"batch_size": 8}
    bundle = train_bundle(base, data, tmp_path / "mine", Choices(**quick))
    assert bundle is not None
    assert bundle.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16]
    # Slices of 3 mm across feet to head.
    assert json.loads(bundle.config("inference").read_text())["inferer"]["slice_axis"] == 2
    assert bundle.metadata["eval_metrics"]["mean_dice_validation"] > 0.9
    assert run_bundle(bundle, [data.parent / "case1_0000.nii.gz"], tmp_path / "out", report=False) == 0


def test_a_single_case_is_trained_on_and_nothing_is_claimed(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "data", 1)
    quick = QUICK | {"epochs": 1, "epoch_length": 1}
    bundle = train_bundle(base_bundle(tmp_path / "base"), manifest, tmp_path / "mine", Choices(**quick))
    assert bundle is not None
    assert bundle.facts["quality"] == "not measured: no case was kept apart"
    assert bundle.metadata["eval_metrics"] == {}


def test_broken_cases_are_named_before_training_or_left_out(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "data", 3)
    moved = nib.load(tmp_path / "data" / "case1_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), np.eye(4)), tmp_path / "data" / "case1_seg.nii.gz")
    base, output = base_bundle(tmp_path / "base"), tmp_path / "mine"
    with pytest.raises(MedvitError, match=r"(?s)1 of 3 cases.*--skip-bad.*case1: .*grid of its image"):
        train_bundle(base, manifest, output, Choices(**QUICK))
    assert not output.exists() and not Workspace(output).folder.exists()
    log = tmp_path / "log"
    with log.open("w") as file:
        console = Console(file=file, width=200)
        planned = train_bundle(
            base, manifest, output, Choices(**QUICK), skip_bad=True, plan_only=True, console=console
        )
    assert isinstance(planned, Plan) and planned.cost and not Workspace(output).folder.exists()
    assert "left out: case1" in log.read_text()
    assert "1 to train on, 1 to validate on" in log.read_text()


def test_memory_that_runs_out_is_said_with_what_to_try(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PatchDataset, index: int) -> dict:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(PatchDataset, "__getitem__", full)
    with pytest.raises(MedvitError, match=r"2 window\(s\) of 16 x 16 x 16 .*--batch-size 1"):
        train_bundle(base_bundle(tmp_path / "base"), data, tmp_path / "mine", Choices(**QUICK))
    assert not list(tmp_path.glob("mine*")), "nothing is left to resume from, so nothing is left"


def test_an_existing_folder_is_not_touched(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(MedvitError, match="exists already"):
        train_bundle(base_bundle(tmp_path / "base"), data, tmp_path / "mine", Choices(**QUICK))
    assert [p.name for p in tmp_path.glob("mine*")] == ["mine"]


def test_minutes_are_used_and_a_network_by_name_becomes_a_bundle_that_runs(
    data: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    choices = Choices(minutes=0.1, patch_size=(32, 32, 32), batch_size=2, device="cpu")
    with log.open("w") as file:
        console = Console(file=file, width=200)
        bundle = train_bundle(
            Base.of_network("SegFormer3D", "tiny"), data, tmp_path / "mine", choices, console=console
        )
    assert bundle is not None
    rows = read_history(bundle.path / "docs" / "training.csv")
    assert 0.05 < rows[-1]["minutes"] < 0.4 and rows[-1]["learning_rate"] < 1e-4
    assert {"low box", "high box", "mean_dice", "loss"} < set(rows[-1])
    text = log.read_text()
    for word in ("time         6 s", "memory ", "disk ", "random: training starts from scratch"):
        assert word in text
    assert "started from the bundle" not in (bundle.path / "LICENSE").read_text()
    # After six seconds a structure may be missing yet, which ends with 3; the results are there all the same.
    assert run_bundle(bundle, [data.parent / "case1_0000.nii.gz"], tmp_path / "out", report=False) in (0, 3)
    assert (tmp_path / "out" / "case1_0000" / "labels.nii.gz").is_file()


def test_two_processes_train_one_bundle(trained: Bundle, data: Path, tmp_path: Path) -> None:
    configs = str([str(trained.config(name)) for name in ("train", "multi_gpu_train")])
    command = ["--config_file", configs, "--bundle_root", str(trained.path), "--manifest", str(data)]
    command += ["--dataset_dir", str(data.parent), "--output_dir", str(tmp_path)]
    # Timed, which the two clocks must not end at different steps.
    command += ["--epochs", "1000", "--epoch_length", "3", "--minutes", "0.02", "--batch_size", "1"]
    run_in_two_processes(command, tmp_path / "log.txt")
    rows = read_history(tmp_path / "training.csv")
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1)), "one process writes"
    assert rows[-1]["mean_dice"] > 0.9
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    load_weights(open_bundle(trained).part("network_def"), tmp_path / "model.pt")
