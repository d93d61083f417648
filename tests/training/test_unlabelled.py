"""Voxels that nobody labelled: nothing is learned from them, and nothing scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvit.datasets import read_manifest
from medvit.datasets.splits import split_cases
from medvit.training.case_facts import survey
from tests.training.cases import write_data


def test_the_value_comes_from_the_manifest(tmp_path: Path) -> None:
    path = write_data(tmp_path, labels=[{"value": 3, "name": "low box"}], ignore=7)
    manifest = read_manifest(path)
    np.testing.assert_array_equal(manifest.to_table(np.array([0, 3, 7])), [0, 1, 2])
    (first, *_) = survey(split_cases(manifest).training, manifest)
    assert first.values == {1} and 20 < np.median(first.intensities) < 80


@pytest.mark.parametrize("value", [3, 9])
def test_nnunets_own_word_for_it(tmp_path: Path, value: int) -> None:
    content = {
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "labels": {"background": 0, "liver": 1},
    }
    content["labels"]["ignore"] = value
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    manifest = read_manifest(tmp_path)
    assert manifest.ignore == value and manifest.values == (1,) and value in manifest.known_values
    np.testing.assert_array_equal(manifest.to_table(np.array([0, 1, value])), [0, 1, 2])
