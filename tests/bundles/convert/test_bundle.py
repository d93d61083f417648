"""A converted checkpoint runs, and gives what the authors' configuration gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata
from typer.testing import CliRunner

from medvit.bundles import Bundle, find_bundle
from medvit.bundles.convert import ConversionSettings, convert_checkpoint
from medvit.bundles.convert.configuration import lateral_pairs
from medvit.cli.app import app
from medvit.errors import MedvitError
from medvit.exits import ALL_WELL, SOME_FAILED
from medvit.runs import run_bundle
from tests.bundles.convert.published import CASES, Case

SCHEMA = Path(__file__).parents[1] / "meta_schema_20240725.json"
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.golden_name)


def write_study(folder: Path, channels: int) -> Path:
    """A small study of noise on a slope, one file for each channel."""
    folder.mkdir()
    for i in range(channels):
        noise = np.random.default_rng(i).uniform(0, 1, (16, 18, 14)).astype(np.float32)
        noise += np.linspace(0, 2, 16, dtype=np.float32)[:, None, None]
        suffix = f"_{i:04}" if channels > 1 else ""
        nib.save(nib.Nifti1Image(noise, np.diag([4.0, 4, 4, 1])), folder / f"scan{suffix}.nii.gz")
    return folder


def network_of(bundle: Bundle) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    parser["bundle_root"] = str(bundle.path)
    parser["device"] = torch.device("cpu")
    return parser.get_parsed_content("network")


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.golden_name == name)


@every_case
def test_the_bundle_holds_the_authors_network_and_runs(case: Case, tmp_path: Path) -> None:
    bundle = convert_checkpoint(case.network, case.save(tmp_path), tmp_path / "mine", case.conversion())
    image = next(iter(case.golden.inputs().values())).float()[:1]
    with torch.no_grad():
        torch.testing.assert_close(network_of(bundle)(image), case.theirs().float()(image))
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(str(bundle.path / "configs/metadata.json"), filepath=str(tmp_path / "schema.json"))
    channels = bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    study = write_study(tmp_path / "in", channels)
    trusted = find_bundle(str(tmp_path / "mine"), trust=True)
    # Noise through untrained weights is judged red, and red counts in the exit code.
    assert run_bundle(trusted, [study], tmp_path / "out", device="cpu", report=False) in (
        ALL_WELL,
        SOME_FAILED,
    )
    labels = nib.load(tmp_path / "out" / "scan" / "labels.nii.gz")
    assert labels.shape == (16, 18, 14)
    assert set(np.unique(labels.get_fdata())) <= set(range(case.out_channels))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".partial")]


@pytest.mark.parametrize("name", ["segformer3d_small", "transunet_small"])
def test_labels_come_back_to_the_voxels_that_they_were_found_in(name: str, tmp_path: Path) -> None:
    """Turned axes and resized slices, with a threshold for a network."""
    case = case_named(name)
    bundle = convert_checkpoint(case.network, case.save(tmp_path), tmp_path / "mine", case.conversion())
    box = np.zeros((20, 26, 16), np.float32)
    box[3:12, 8:24, 2:7] = 1
    affine = np.array([[0, -4.0, 0, 9], [4, 0, 0, -7], [0, 0, 5, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(box, affine), tmp_path / "box.nii.gz")
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    image = parser.get_parsed_content("preprocessing")({"image": tmp_path / "box.nii.gz"})["image"]
    inferer = parser.get_parsed_content("inferer")
    labels = inferer(image[None], lambda x: torch.cat([0.5 - x, x - 0.5], dim=1))[0, 0].numpy()
    assert labels.shape == box.shape
    assert 2 * (labels * box).sum() / (labels.sum() + box.sum()) > 0.98


def test_overlapping_regions_are_painted_in_their_order(tmp_path: Path) -> None:
    case = case_named("mambaclinix_aniso")
    settings = case.conversion(labels="core,whole", paint_order=(2, 1))
    bundle = convert_checkpoint(case.network, case.save(tmp_path), tmp_path / "mine", settings)
    inferer = json.loads(bundle.config("inference").read_text())["inferer"]
    assert (inferer["region_labels"], inferer["region_order"]) == ([1, 2], [1, 0])
    assert bundle.metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "core",
        "1": "whole",
    }


def test_sides_are_swapped_by_name_in_mirrored_images() -> None:
    table = {"name": "t", "structures": [{"name": n} for n in ("right kidney", "liver", "left kidney")]}
    assert lateral_pairs(table) == [[3, 1]]


def test_spacing_and_window_are_turned_into_the_networks_axes(tmp_path: Path) -> None:
    case = case_named("segformer3d_small")
    settings = case.conversion(spacing=(1.0, 2.0, 3.0), roi=(32, 48, 64))
    bundle = convert_checkpoint(case.network, case.save(tmp_path), tmp_path / "mine", settings)
    config = json.loads(bundle.config("inference").read_text())
    assert (config["spacing"], config["roi_size"]) == ([3.0, 2.0, 1.0], [64, 48, 32])
    assert config["inferer"]["flips"]["lateral_axis"] == 2


def test_a_plan_in_the_checkpoint_needs_no_words(tmp_path: Path) -> None:
    case = case_named("mambaclinix_aniso")
    config = case.golden.manifest["config"]
    numbers = {"percentile_00_5": -900.0, "percentile_99_5": 300.0, "mean": 50.0, "std": 100.0}
    configuration = {
        "patch_size": [8, 16, 32], "spacing": [5.0, 1.0, 2.0], "pool_op_kernel_sizes": config["strides"],
        "conv_kernel_sizes": config["kernels"], "normalization_schemes": ["CTNormalization"],
    }  # fmt: skip
    plans = {
        "configurations": {"3d_fullres": configuration}, "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": numbers},
    }  # fmt: skip
    arguments = {"plans": plans, "configuration": "3d_fullres", "device": torch.device("cpu")}
    arguments["dataset_json"] = {"labels": {"background": 0, "airway": 1}}
    path = case.save(tmp_path, init_args=arguments)
    bundle = convert_checkpoint(case.network, path, tmp_path / "mine", ConversionSettings())
    assert bundle.label_table is not None
    assert [s.name for s in bundle.label_table] == ["airway"]
    written = json.loads(bundle.config("inference").read_text())
    assert (written["roi_size"], written["spacing"]) == ([8, 16, 32], [5.0, 1.0, 2.0])
    scaling = written["preprocessing"]["transforms"][-1]
    assert (scaling["a_min"], scaling["b_min"], scaling["b_max"]) == (-900.0, -9.5, 2.5)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("d_former_small", {"arguments": {}}, r"--set group_size=.*--set num_heads="),
        ("segformer3d_small", {"arguments": {}}, r"attention_scale=.*'heads' for the weights released"),
        ("swin_unetr_legacy", {"arguments": {}}, r"patch_merging=.*'legacy' for weights made with MONAI up"),
        ("xlstm_unet_enc3d_small_ds", {"arguments": {}}, r"--set strides="),
        ("xlstm_unet_enc3d_small_ds", {"roi": None}, r"--set img_size=.*--roi"),
        (
            "mambaclinix_aniso",
            {"labels": "", "spacing": None, "intensity": ""},
            "--labels.*--spacing",
        ),
        ("mambaclinix_aniso", {"labels": "a,b"}, "1 labels beside the background, not 2"),
        ("mambaclinix_aniso", {"labels": "a,b", "paint_order": (1, 1)}, "each channel from 1 to 2 once"),
        ("mambaclinix_aniso", {"channels": ("t1", "t2")}, "takes 1 images, but --channels names 2"),
        ("mambaclinix_aniso", {"roi": (30, 16, 8)}, "divisible by"),
        ("mambaclinix_aniso", {"intensity": "window:5:1"}, "window:LOW:HIGH"),
        ("mambaclinix_aniso", {"orientation": "RSX"}, "three directions"),
        ("mambaclinix_aniso", {"labels": "none.json"}, "is not a label table"),
        ("transunet_small", {"arguments": {"num_heads": 4, "colour": 1}}, "no argument colour"),
        ("transunet_small", {"arguments": {"num_heads": 5}}, "cannot be built with these arguments"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_left(
    name: str, changes: dict, words: str, tmp_path: Path
) -> None:
    case = case_named(name)
    with pytest.raises(MedvitError, match=words):
        convert_checkpoint(case.network, case.save(tmp_path), tmp_path / "mine", case.conversion(**changes))
    assert [p.name for p in tmp_path.iterdir()] == ["published.pth"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    case = case_named("mambaclinix_aniso")
    (tmp_path / "kept").touch()
    with pytest.raises(MedvitError, match="exists already"):
        convert_checkpoint(case.network, case.save(tmp_path), tmp_path, case.conversion())


def test_the_command_line_converts_and_runs(tmp_path: Path) -> None:
    case = case_named("mambaclinix_aniso")
    words = ["convert", case.network, str(case.save(tmp_path)), "-o", str(tmp_path / "mine"), "--labels", "a",
             "--spacing", "4", "4", "4", "--roi", "32", "16", "8", "--intensity", "zscore",
             "--set", "strides=[1,[1,2,2],[1,2,2],2,2]"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    study = write_study(tmp_path / "in", 1)
    words = ["run", str(tmp_path / "mine"), str(study), "-o", str(tmp_path / "out"), "--trust", "--tta"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (tmp_path / "out" / "scan" / "measurements.json").is_file()
