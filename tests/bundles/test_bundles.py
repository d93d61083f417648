"""What the model zoo, MONAI Label and MONAI Deploy ask of a bundle, asked of every installed one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    create_workflow,
    load,
    onnx_export,
    verify_metadata,
    verify_net_in_out,
)

from medvit.bundles import Bundle, installed_bundles
from medvit.exits import ALL_WELL, NOTHING_TO_DO, SOME_FAILED, STOPPED_BY_ERROR
from medvit.networks import load_weights
from medvit.studies import sha256_of
from tests.phantoms import write_head
from tests.processes import WITHOUT_COLLECTOR

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
DOCS = Path(__file__).parents[2] / "docs" / "export.md"
BUNDLES = [bundle for bundle in installed_bundles() if not bundle.is_quantised]
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)

# Identifiers by which MONAI Label and MONAI Deploy find what they need.
EXPECTED_IDS = (
    "bundle_root", "dataset_dir", "dataset", "device", "displayable_configs", "evaluator", "handlers",
    "inferer", "network", "network_def", "output_dir", "postprocessing", "preprocessing", "run",
)  # fmt: skip


def config(bundle: Bundle, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle.config(name)))
    parser["bundle_root"] = str(bundle.path)
    return parser


def smallest_input(bundle: Bundle) -> list[int]:
    """Spatial shape of the smallest image that the network takes, by the metadata."""
    shape = bundle.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return [int(str(n).removesuffix("*n")) for n in shape]


def channels(bundle: Bundle) -> tuple[int, int]:
    """Channels in and out, by the metadata."""
    described = bundle.metadata["network_data_format"]
    return described["inputs"]["image"]["num_channels"], described["outputs"]["pred"]["num_channels"]


# Voxels of the result for each voxel of the scan, along each axis.
FINER = {"hat_mr_superres": (1, 1, 4), "hat_mr_inplane": (2, 2, 1)}


def result_name(bundle: Bundle) -> str:
    return "image.nii.gz" if bundle.label_table is None else "labels.nii.gz"


def key_metric(bundle: Bundle) -> tuple[str, int]:
    """What training is judged by, and the number of its figures of an image, their mean included."""
    if bundle.label_table is None:
        return "val_psnr", 2
    return "val_mean_dice", channels(bundle)[1]


def write_studies(bundle: Bundle, folder: Path) -> None:
    """Two heads with label maps; for a bundle that is trained on a data set, two labelled boxes of it."""
    write_head(folder / "head_1.nii.gz")
    write_head(folder / "head_seg_09.nii.gz")
    if "manifest" not in json.loads(bundle.config("train").read_text()):
        return
    names = list(bundle.metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values())
    labels = np.zeros((36, 44, 34), np.uint8)
    labels[8:28, 8:22, 8:26], labels[8:28, 22:36, 8:26] = 1, 2
    for number in (1, 2):
        nib.save(nib.Nifti1Image(labels * 50.0, np.eye(4)), folder / f"box_{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"box_{number}_seg.nii.gz")
    cases = [{"image": f"./box_{n}.nii.gz", "label": f"./box_{n}_seg.nii.gz"} for n in (1, 2)]
    listed = {
        "name": "boxes", "modality": {"0": "MRI"}, "labels": dict(enumerate(names)), "training": cases,
        "numTraining": 2, "numTest": 0, "test": [],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(listed))


def test_there_are_bundles() -> None:
    assert {"segformer3d_brain", "rat_ct_denoise", "rat_mr_denoise"} <= {b.name for b in BUNDLES}


@every_bundle
def test_the_folder_is_complete(bundle: Bundle) -> None:
    for part in (
        "LICENSE",
        "configs/metadata.json",
        "configs/train.json",
        "configs/evaluate.json",
        "configs/multi_gpu_train.json",
        "configs/multi_gpu_evaluate.json",
        "docs/README.md",
        "docs/data_license.txt",
        "models/model.pt",
    ):
        assert (bundle.path / part).is_file(), part
    assert not (bundle.path / "scripts").exists(), "code of two bundles in one process would collide"
    assert bundle.weights.stat().st_size < 12e6
    newest = max(bundle.metadata["changelog"], key=lambda v: [int(n) for n in v.partition("+")[0].split(".")])
    assert bundle.version == newest


@every_bundle
def test_the_metadata_passes_the_zoos_schema(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(
        meta_file=str(bundle.path / "configs" / "metadata.json"), filepath=str(tmp_path / "schema.json")
    )


@every_bundle
def test_network_and_metadata_agree_in_channels_and_size(bundle: Bundle) -> None:
    metadata = str(bundle.path / "configs" / "metadata.json")
    verify_net_in_out(
        net_id="network_def", meta_file=metadata, config_file=str(bundle.config("inference")),
        bundle_root=str(bundle.path), device="cpu", n=1, p=1, any=1,
    )  # fmt: skip
    inputs, outputs = channels(bundle)
    if table := bundle.label_table:
        described = bundle.metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        assert described == dict(list(table.channel_def.items())[:outputs])
        # The values of other groups come from the place of what was found, not from the network.
        assert {s.group for s in table.structures[outputs - 1 :]}.isdisjoint(
            s.group for s in table.structures[: outputs - 1]
        )
    network = config(bundle, "inference").get_parsed_content("network_def").eval()
    shape = smallest_input(bundle)
    with torch.no_grad():
        assert network(torch.zeros(1, inputs, *shape)).shape == (1, outputs, *shape)


def test_brain_bundles_differ_in_little_but_the_network() -> None:
    """What they share stands in the library and is set alike."""
    brain = [b for b in BUNDLES if b.facts.get("labels") == "brain"]
    training = {"train", "validate"}
    slices = {"inferer", "plane", "slices", "sw_batch_size", "displayable_configs", "writer"}
    own = {
        "inference": {"bundle_root", "spacing", "roi_size", "overlap", "network_def"},
        "train": {"bundle_root", "sample_shape", "voxel_size", "settings", "learning_rate"} | training,
    }
    for name, allowed in own.items():
        first, *others = configs = [json.loads(b.config(name).read_text()) for b in brain]
        for settings in configs:
            settings.get("inferer", {}).pop(
                "region", None
            )  # which part of the image a bundle looks at is its own
        for bundle, other in zip(brain[1:], others, strict=True):
            differ = {k for k in first.keys() | other.keys() if first.get(k) != other.get(k)}
            flat = len(smallest_input(bundle)) == 2 or len(smallest_input(brain[0])) == 2
            assert differ <= (allowed | slices if flat else allowed - training), bundle.name
    for name in ("evaluate", "multi_gpu_train", "multi_gpu_evaluate"):
        assert len({b.config(name).read_text() for b in brain}) == 1


@every_bundle
def test_the_weights_are_the_ones_that_the_metadata_names(bundle: Bundle) -> None:
    assert sha256_of(bundle.weights) == bundle.facts["weights_sha256"]
    load_weights(config(bundle, "inference").get_parsed_content("network_def"), bundle.weights)


@every_bundle
@pytest.mark.parametrize("kind", ["infer", "train"])
def test_monais_properties_are_all_there(bundle: Bundle, kind: str, tmp_path: Path) -> None:
    name = {"infer": "inference", "train": "train"}[kind]
    write_studies(bundle, tmp_path)
    workflow = ConfigWorkflow(
        config_file=str(bundle.config(name)), workflow_type=kind, bundle_root=str(bundle.path),
        dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"), logging_file=False,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []


@every_bundle
def test_other_tools_find_their_identifiers(bundle: Bundle) -> None:
    content = json.loads(bundle.config("inference").read_text())
    assert [name for name in EXPECTED_IDS if name not in content] == []
    assert set(content["displayable_configs"]) <= set(content)


@every_bundle
def test_configurations_compute_only_what_was_reviewed(bundle: Bundle) -> None:
    """Expressions are code: each may call only what stands in this list, and build only known components."""
    allowed = {
        "attach", "check_flags", "data_parallel", "device", "enumerate", "find_label_maps", "find_studies",
        "finish", "from_engine", "inference_component", "is_available", "join_process_group",
        "lateral_flips", "leave_process_group", "len", "load_weights", "locate", "max", "min", "parameters",
        "prepare_samples", "restored", "run", "run_studies", "save_weights", "set_determinism", "slice_axis",
        "split_cases", "start_training", "to", "world_size",
    }  # fmt: skip
    trusted = ("medvit.", "torch.", "ignite.handlers.")
    for file in sorted((bundle.path / "configs").glob("*.json")):
        if file.name == "metadata.json":
            continue
        text = file.read_text()
        called = set(re.findall(r"(\w+)\(", "\n".join(re.findall(r'"\$(.*?)"', text))))
        assert called <= allowed, (file.name, called - allowed)
        for target in re.findall(r'"_target_": "([^"]+)"', text):
            assert "." not in target or target.startswith(trusted), target


@every_bundle
def test_the_zoos_export_gives_what_the_network_gives(bundle: Bundle, tmp_path: Path) -> None:
    """By scripting, as the zoo's full check does it, but for those that its exclusion list is for."""
    exports = bundle.facts["exports"]
    # The trace is checked below, on another image; torch's own check would trace it once more.
    by_tracing = {"use_trace": True, "converter_kwargs": {"check_trace": False}}
    traced = by_tracing if exports["torchscript"] == "trace" else {}
    assert not traced or "exclude_verify_torchscript_list" in (bundle.path / "docs/README.md").read_text()
    shape = [1, channels(bundle)[0], *smallest_input(bundle)]
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(bundle.weights),
        meta_file=str(bundle.path / "configs" / "metadata.json"), config_file=str(bundle.config("inference")),
        bundle_root=str(bundle.path), input_shape=shape, **traced,
    )  # fmt: skip
    network = load_weights(config(bundle, "inference").get_parsed_content("network_def"), bundle.weights)
    exported = torch.jit.load(tmp_path / "model.ts")
    # A scripted network takes other sizes than that of an example; TransUNet is built for one.
    larger = [*shape[:3], *(2 * n for n in shape[3:])]
    for size in [shape] if traced or bundle.name == "transunet_brain" else [shape, larger]:
        image = torch.rand(size)
        # Optimising the graph would take longer than running it once.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            torch.testing.assert_close(exported(image), network(image), rtol=1e-3, atol=1e-3)


@every_bundle
def test_the_docs_state_what_the_zoos_check_says(bundle: Bundle) -> None:
    rows = [
        line.split("|") for line in DOCS.read_text().splitlines() if line.startswith(f"| `{bundle.name}` |")
    ]
    stated = [[cell.strip() for cell in row] for row in rows if f" `{bundle.zoo_name}` " in row]
    assert len(stated) == 1, f"docs/export.md needs one row for {bundle.name} under the model zoo's check"
    scripted = {"script": "yes", "trace": "by tracing"}[bundle.facts["exports"]["torchscript"]]
    assert stated[0][3:5] == ["yes", scripted]


@every_bundle
@pytest.mark.slow
def test_monais_command_exports_to_onnx(bundle: Bundle, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    shape = [1, channels(bundle)[0], *smallest_input(bundle)]
    file = tmp_path / "model.onnx"
    onnx_export(
        net_id="network_def", filepath=str(file), ckpt_file=str(bundle.weights),
        meta_file=str(bundle.path / "configs" / "metadata.json"), config_file=str(bundle.config("inference")),
        bundle_root=str(bundle.path), input_shape=shape,
        converter_kwargs={"opset_version": bundle.facts["exports"]["onnx_opset"]},
    )  # fmt: skip
    assert onnx.load(file).opset_import[0].version == bundle.facts["exports"]["onnx_opset"]
    network = load_weights(config(bundle, "inference").get_parsed_content("network_def"), bundle.weights)
    image = torch.rand(shape)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = network(image).numpy()
    assert np.isfinite(given).all()
    if bundle.label_table is not None:
        assert (given.argmax(1) == expected.argmax(1)).mean() > 0.999
    else:
        np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-3)


# MONAI's command for each list of arguments, as `python -m monai.bundle` gives it, in one process.
COMMANDS = (
    WITHOUT_COLLECTOR
    + """\
import json, runpy, sys, traceback

codes = []
for arguments in json.load(sys.stdin):
    sys.argv = ["monai.bundle", *arguments]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        codes.append(0)
    except SystemExit as end:
        print(end, file=sys.stderr)
        codes.append(end.code or 0)
    except Exception:
        traceback.print_exc()
        codes.append(1)
print(json.dumps(codes))
"""
)


def test_each_bundle_runs_from_any_directory(tmp_path: Path) -> None:
    commands = []
    for bundle in BUNDLES:
        low = -1000 if bundle.facts["modality"] == ["CT"] else 0
        noise = np.random.default_rng(0).uniform(low, 1, (16, 18, 20)).astype(np.float32)
        (tmp_path / bundle.name).mkdir()
        scan = tmp_path / bundle.name / "scan.nii.gz"
        edge = 4.0 if bundle.label_table else FINER.get(bundle.name, (1,))[0]
        nib.save(nib.Nifti1Image(noise, np.diag([edge, edge, 4.0, 1.0])), scan)
        start = ["run", "--config_file", str(bundle.config("inference")), "--report", "False"]
        output = ["--output_dir", str(tmp_path / bundle.name / "out")]
        commands += [
            [*start, *output, "--input", str(name)] for name in (scan, scan.with_name("nothing_here"))
        ]
    commands.append(["run", "--config_file", str(BUNDLES[0].config("inference")), "--dataset_dri", "x"])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd="/", input=json.dumps(commands), capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *codes, mistyped = json.loads(done.stdout.splitlines()[-1])
    assert mistyped.endswith("did you mean 'dataset_dir'?)"), "a mistyped flag ends in one sentence"
    assert len(codes) == 2 * len(BUNDLES)
    for bundle, good, missing in zip(BUNDLES, codes[::2], codes[1::2], strict=True):
        # Noise holds no anatomy: a bundle that says so, with a red light, has run as well.
        assert good in (ALL_WELL, SOME_FAILED), (bundle.name, done.stderr)
        result = tmp_path / bundle.name / "out" / "scan" / result_name(bundle)
        wanted = np.multiply((16, 18, 20), FINER.get(bundle.name, (1, 1, 1)))
        assert nib.load(result).shape == tuple(wanted), bundle.name
        assert missing in (STOPPED_BY_ERROR, NOTHING_TO_DO), bundle.name


def train(bundle: Bundle, configs: list[str], folder: Path, **overrides: object) -> ConfigWorkflow:
    """Run a training or evaluation on two made-up heads, as small as can be."""
    write_studies(bundle, folder)
    shape = smallest_input(bundle)
    workflow = ConfigWorkflow(
        config_file=[str(bundle.config(name)) for name in configs], workflow_type="train",
        bundle_root=str(bundle.path), dataset_dir=str(folder), output_dir=str(folder / "out"),
        logging_file=False, num_workers=0, device="$torch.device('cpu')",
        sample_shape=shape if len(shape) == 3 or bundle.label_table is None else [*shape, shape[0]],
        slices=2, epoch_length=2, val_length=1, val_interval=1, **overrides,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    return workflow


@every_bundle
def test_evaluation_saves_each_figure(bundle: Bundle, tmp_path: Path) -> None:
    train(bundle, ["train", "evaluate"], tmp_path)
    name, figures = key_metric(bundle)
    raw = (tmp_path / "out" / f"{name}_raw.csv").read_text().splitlines()
    assert len(raw[1].split(",")) == 1 + figures


@every_bundle
def test_training_takes_a_step_and_goes_on_from_its_checkpoint(bundle: Bundle, tmp_path: Path) -> None:
    first = train(bundle, ["train"], tmp_path, epochs=1)
    assert first.trainer.state.iteration == 2
    checkpoint = tmp_path / "out" / "checkpoints" / "checkpoint_epoch=1.pt"
    second = train(bundle, ["train"], tmp_path, epochs=2, resume=str(checkpoint))
    assert second.trainer.state.iteration == 4
    assert second.trainer.state.metrics is not None
    network = config(bundle, "inference").get_parsed_content("network_def")
    load_weights(network, tmp_path / "out" / "model.pt")


@every_bundle
def test_monai_loads_the_network_without_data_from_anywhere(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = load(bundle.name, bundle_dir=bundle.path.parent, device="cpu")
    state = torch.load(bundle.weights, weights_only=True)
    assert set(network.state_dict()) == set(state)
    name, value = next(iter(state.items()))
    torch.testing.assert_close(network.state_dict()[name], value.to(network.state_dict()[name].dtype))
    workflow = create_workflow(config_file=str(bundle.config("train")), workflow_type="train")
    assert Path(workflow.bundle_root) == bundle.path
