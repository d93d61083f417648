"""The plan in an nnU-Net checkpoint, read as nnU-Net wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from medvit.bundles.convert.plans import NNUNetPlan, read_plan

FULL: dict[str, Any] = {
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3]],
    "patch_size": [28, 256, 224],
    "spacing": [5, 1.25, 1.25],
    "normalization_schemes": ["CTNormalization"],
}
INTENSITY = {"percentile_00_5": -958.0, "percentile_99_5": 277.5, "mean": 70.25, "std": 139.0}


def checkpoint(configuration: dict[str, Any], labels: Any = None, **plans: Any) -> dict[str, Any]:
    named = {"2d": {"patch_size": [1, 1]}, "3d_fullres": configuration}
    return {
        "init_args": {
            "configuration": "3d_fullres",
            "plans": {"configurations": named, **plans},
            "dataset_json": {"labels": labels} if labels is not None else None,
        }
    }


def test_the_configuration_that_was_trained_is_read() -> None:
    labels = {"background": 0, "tumour": 2, "kidney": 1, "ignore": 3}
    stated = checkpoint(
        FULL,
        labels,
        foreground_intensity_properties_per_channel={"0": INTENSITY},
        transpose_forward=[2, 0, 1],
    )
    assert read_plan(stated) == NNUNetPlan(
        strides=[[1, 1, 1], [1, 2, 2]],
        kernel_size=[[1, 3, 3], [3, 3, 3]],
        patch_size=(28, 256, 224),
        spacing=(5.0, 1.25, 1.25),
        intensity="window:-958:277.5:70.25:139",
        labels=("kidney", "tumour"),
        axes=(2, 0, 1),
    )


@pytest.mark.parametrize(
    ("schemes", "masked", "properties", "expected"),
    [
        (["ZScoreNormalization"] * 2, [False, False], {}, "zscore"),
        (["ZScoreNormalization"] * 2, [False, True], {}, "zscore:nonzero"),
        (["CTNormalization"] * 2, [], {"0": INTENSITY, "1": INTENSITY}, None),
        (["CTNormalization", "ZScoreNormalization"], [], {"0": INTENSITY}, None),
        (["NoNormalization"], [], {"0": INTENSITY}, None),
    ],
)
def test_intensities_are_stated_only_where_one_scaling_fits_all_channels(
    schemes: list[str], masked: list[bool], properties: dict[str, Any], expected: str | None
) -> None:
    configuration = {"normalization_schemes": schemes, "use_mask_for_norm": masked}
    stated = checkpoint(configuration, foreground_intensity_properties_per_channel=properties)
    assert read_plan(stated).intensity == expected


def test_overlapping_regions_have_no_order_of_labels() -> None:
    assert read_plan(checkpoint(FULL, {"background": 0, "whole": [1, 2], "core": [2]})).labels is None


@pytest.mark.parametrize("content", [None, [], {}, {"init_args": None}, {"init_args": {"plans": "x"}}])
def test_other_checkpoints_have_no_plan(content: Any) -> None:
    assert read_plan(content) == NNUNetPlan()
