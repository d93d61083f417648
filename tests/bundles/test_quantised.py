"""The quantised bundles that come with medvit: they say what they are, run, and answer as their original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from medvit.bench.run import brain_bundles
from medvit.bundles import Bundle, find_bundle, installed_bundles, segment
from medvit.bundles.quantize import Scores
from medvit.studies import sha256_of
from tests.phantoms import write_head

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
QUANTISED = [bundle for bundle in installed_bundles() if bundle.is_quantised]
each = pytest.mark.parametrize("bundle", QUANTISED, ids=lambda bundle: bundle.name)


def test_the_whole_brain_is_there_and_the_bench_leaves_it_out() -> None:
    assert "segformer3d_brain_int8" in {bundle.name for bundle in QUANTISED}
    assert not any(bundle.is_quantised for bundle in brain_bundles())


@each
def test_it_is_the_quantised_form_of_the_weights_that_ship(bundle: Bundle) -> None:
    made_from = bundle.facts["quantised"]
    original = find_bundle(made_from["from"])
    assert made_from["from_sha256"] == original.facts["weights_sha256"] == sha256_of(original.weights)
    assert sha256_of(bundle.weights) == bundle.facts["weights_sha256"]
    assert bundle.version == f"{original.version}+int8" and bundle.version in bundle.metadata["changelog"]
    assert bundle.label_table == original.label_table


@each
def test_no_structure_lost_what_the_command_refuses(bundle: Bundle) -> None:
    table = bundle.facts["quantised"]["dice"]
    assert bundle.facts["quantised"]["reference"] == "reference labels"
    assert not [name for name, row in table.items() if Scores(**row).is_loss]
    card = (bundle.path / "docs" / "README.md").read_text()
    assert all(f"| {name} |" in card for name in table)


@each
def test_monai_finds_what_it_asks_for(bundle: Bundle, tmp_path: Path) -> None:
    metadata = bundle.path / "configs" / "metadata.json"
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=str(metadata), filepath=str(tmp_path / "schema.json"))
    verify_net_in_out(
        net_id="network_def", meta_file=str(metadata), config_file=str(bundle.config("inference")),
        bundle_root=str(bundle.path), device="cpu",
    )  # fmt: skip
    write_head(tmp_path / "head.nii.gz")
    workflow = ConfigWorkflow(
        config_file=str(bundle.config("inference")), workflow_type="infer", bundle_root=str(bundle.path),
        dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"), logging_file=False,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []


@each
def test_labels_are_those_of_the_original(bundle: Bundle, tmp_path: Path) -> None:
    write_head(tmp_path / "head.nii.gz")
    image = nib.load(tmp_path / "head.nii.gz")
    assert np.prod(image.shape) < 3e6
    original = find_bundle(bundle.facts["quantised"]["from"])
    found, expected = (segment(b, tmp_path / "head.nii.gz") for b in (bundle, original))
    assert found.details["backend"] == "openvino" and expected.details["backend"] == "torch"
    drawn = (expected.voxels > 0) | (found.voxels > 0)
    assert drawn.any() and (found.voxels == expected.voxels)[drawn].mean() > 0.9
    assert (
        json.loads(bundle.config("inference").read_text())["overlap"]
        == json.loads(original.config("inference").read_text())["overlap"]
    )
