"""Documents of a converted bundle: what was stated, what was assumed, and whose the weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvit.bundles.convert.deduction import NETWORKS, Deduction
from medvit.bundles.convert.documents import PAPERS, licence_note, metadata_section, readme
from medvit.bundles.convert.settings import Conversion, ConversionSettings

LABELS = {"name": "labels", "structures": [{"name": "liver"}, {"name": "kidney", "paired": True}]}
SHA = "ab" * 32


def conversion(spacing: tuple[float, float, float] | None = (1.0, 1.5, 3.0), **settings: Any) -> Conversion:
    found = Deduction("SwinUNETR", 3, {"in_channels": 2}, assumed=["Heads of 16 channels."])
    stated = ConversionSettings(**{"intensity": "zscore", "orientation": "RAS", **settings})
    return Conversion(found, stated, Path("weights/swin.pt"), LABELS, spacing, (96, 96, 64))


def test_every_network_that_can_be_converted_has_its_paper() -> None:
    assert set(PAPERS) == set(NETWORKS)


def test_metadata_say_what_is_known() -> None:
    metadata = metadata_section(conversion(channels=("t1", "flair")), "mine", SHA)
    assert metadata["task"] == "Segmentation of liver, left kidney, right kidney"
    assert metadata["references"] == [PAPERS["SwinUNETR"]]
    assert metadata["network_data_format#inputs#image#spatial_shape"] == [96, 96, 64]
    assert metadata["network_data_format#inputs#image#channel_def"] == {"0": "t1", "1": "flair"}
    assert metadata["medvit"] == {
        "labels": LABELS, "modality": [], "quality": "not measured", "weights_sha256": SHA
    }  # fmt: skip
    assert "network_data_format#outputs#pred#channel_def" not in metadata


def test_a_window_in_hounsfield_units_means_ct() -> None:
    metadata = metadata_section(conversion(intensity="window:-160:240"), "mine", SHA)
    assert metadata["medvit"]["modality"] == ["CT"]
    assert metadata["network_data_format#inputs#image#modality"] == "CT"
    assert metadata["network_data_format#inputs#image#channel_def"] == {"0": "image 0", "1": "image 1"}


def test_nested_regions_have_no_channel_for_the_background() -> None:
    metadata = metadata_section(conversion(paint_order=(0, 1, 2)), "mine", SHA)
    assert metadata["network_data_format#outputs#pred#channel_def"] == {
        "0": "liver", "1": "left kidney", "2": "right kidney"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spacing", "grid"),
    [((1.0, 1.5, 3.0), "1 x 1.5 x 3 mm, windows of 96 x 96 x 64"), (None, "slices resized to 96 x 64")],
)
def test_the_card_states_the_grid_and_what_was_assumed(
    spacing: tuple[float, float, float] | None, grid: str
) -> None:
    text = readme(conversion(spacing), "mine", SHA)
    assert f"| grid | {grid} |" in text and "- Heads of 16 channels." in text
    assert f"`swin.pt`, SHA-256 `{SHA}`" in text and "medvit run ./mine STUDY -o OUT --trust" in text
    assert "weights/swin.pt" not in text, "no path of the machine"


def test_the_licence_leaves_the_weights_to_their_authors() -> None:
    text = licence_note(conversion(), SHA)
    assert SHA in text and "belong to their authors" in text
