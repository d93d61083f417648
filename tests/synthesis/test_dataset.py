"""Generated samples as a dataset and as a transform."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.transforms import Compose

from medvit.errors import StudyError
from medvit.synthesis import (
    SynthesizeImaged,
    SyntheticBatches,
    SyntheticDataset,
    brain_anatomy,
    find_label_maps,
    read_head_map,
)
from tests.phantoms import write_head


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    write_head(folder / "head_1.nii.gz")
    write_head(folder / "head_2.nii.gz", "LIA")
    return folder


def test_items_depend_on_seed_and_number_alone(maps: Path) -> None:
    settings = {"shape": (24, 24, 24)}
    first = SyntheticDataset(find_label_maps(maps), 4, settings, seed=5)
    resumed = SyntheticDataset(find_label_maps(maps), 4, settings, seed=5)
    resumed.offset = 2
    assert torch.equal(first[2]["image"], resumed[0]["image"])
    assert not torch.equal(first[0]["image"], first[1]["image"])
    assert not torch.equal(
        first[0]["image"], SyntheticDataset(find_label_maps(maps), 4, settings, seed=6)[0]["image"]
    )
    with pytest.raises(IndexError):
        first[4]


def test_batches_depend_on_seed_and_number_alone(maps: Path) -> None:
    settings = {"shape": (24, 24, 24)}
    first, resumed = (SyntheticBatches(find_label_maps(maps), 3, 2, settings, seed=5) for _ in range(2))
    resumed.offset = 1
    assert first[0]["image"].shape == first[0]["label"].shape == (2, 1, 24, 24, 24)
    assert torch.equal(first[2]["image"], resumed[1]["image"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_maps_are_held_out_by_name(maps: Path) -> None:
    assert [p.name for p in find_label_maps(maps, exclude=["_2"])] == ["head_1.nii.gz"]
    assert [p.name for p in find_label_maps(maps, include=["_2"])] == ["head_2.nii.gz"]
    with pytest.raises(StudyError, match="no NIfTI label maps"):
        find_label_maps(maps, include=["nothing"])


def test_the_transform_is_seeded_as_monai_seeds(maps: Path) -> None:
    head = read_head_map(maps / "head_1.nii.gz", brain_anatomy())
    chain = Compose([SynthesizeImaged("head", {"shape": (24, 24, 24)})])
    results = [chain.set_random_state(seed)({"head": head, "age": 40}) for seed in (1, 1, 2)]
    assert torch.equal(results[0]["image"], results[1]["image"])
    assert not torch.equal(results[0]["image"], results[2]["image"])
    assert set(results[0]) == {"age", "image", "label"}
