"""MambaClinix beyond parity: training, sizes, refusals, strictness, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import MambaClinix
from medvit.networks.mambaclinix import MambaMixer
from tests.networks.checks import exports_to_onnx, hears, traces_and_exports, trains
from tests.networks.goldens import golden

CONFIG: dict[str, Any] = {"features": (8, 16, 32, 64), "strides": (1, 2, 2, (1, 2, 2))}
CASE = "mambaclinix_small_ds"


def small(**changes: Any) -> MambaClinix:
    torch.manual_seed(0)
    return MambaClinix(2, 3, **(CONFIG | changes))


@pytest.mark.parametrize("autocast", [False, True])
def test_trains_on_different_sizes(autocast: bool) -> None:
    # Four slices or more at every stage: with two, PyTorch's bfloat16 Conv3d has NaN gradients on some CPUs.
    trains(small(), [torch.randn(2, 2, 16, 16, 24), torch.randn(1, 2, 24, 24, 16)], autocast=autocast)


def test_training_gives_every_level_and_evaluation_the_finest() -> None:
    network = small(deep_supervision=True)
    image = torch.randn(1, 2, 8, 16, 16)
    assert [tuple(x.shape[2:]) for x in network(image)] == [(8, 16, 16), (4, 8, 8), (2, 4, 4)]
    network.eval()
    assert torch.equal(network(image), network.levels(image)[0])
    with pytest.raises(ValueError, match=r"has 3 output level\(s\), not 4"):
        network.levels(image, 4)


@torch.no_grad()
def test_sizes_in_turn_leave_no_trace() -> None:
    network = small().eval()
    image = torch.randn(1, 2, 8, 16, 24)
    before = network(image)
    assert network(torch.randn(2, 2, 4, 32, 16)).shape == (2, 3, 4, 32, 16)
    assert torch.equal(network(image), before)


@torch.no_grad()
def test_the_scan_runs_one_way() -> None:
    """A voxel hears those before it, W fastest, and none behind it."""
    torch.manual_seed(0)
    mixer = MambaMixer(8).double()
    image = torch.randn(1, 8, 3, 4, 5, dtype=torch.float64)
    changed = image.clone()
    changed[:, 0, 1, 2, 3] += 1
    heard = ((mixer(changed) - mixer(image)).abs().amax((0, 1)) > 0).flatten()
    position = (1 * 4 + 2) * 5 + 3
    assert not heard[:position].any()
    assert heard[position:].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (8, 18, 32, 64)}, "18 features cannot be split 3 times: it needs a multiple of 8"),
        ({"strides": (1, 2, 2)}, "need one entry for each of two or more stages, not 4, 4 and 3"),
        ({"strides": (2, 2, 2, 2)}, "first stride must be 1"),
        ({"kernel_size": 2}, "must be odd"),
        ({"kernel_size": (3, 3, 3, (3, 3))}, "must have 3 entries, one an axis"),
    ],
)
def test_refuses_an_impossible_configuration(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 8, 16, 16), r"needs an image \(B, 2, D, H, W\)"),
        ((1, 2, 16, 16), r"needs an image \(B, 2, D, H, W\)"),
        ((1, 2, 8, 12, 16), r"divisible by \[4, 8, 8\], not \[8, 12, 16\]"),
        ((1, 2, 4, 8, 8), "one position at the deepest stage"),
    ],
)
def test_refuses_an_image_that_does_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def published() -> dict[str, Tensor]:
    state = golden(CASE).state()
    return state | {alias: state[name] for alias, name in golden(CASE).manifest["aliases"].items()}


def fitting(deep_supervision: bool = True) -> MambaClinix:
    return small(strides=(1, 2, 2, 2), deep_supervision=deep_supervision)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.encoder_layers.0.hgConvs.dwconv.weight",
        "encoder.encoder_layers.1.gamma1",
        "encoder.encoder_layers.2.mamba.A_log",
        "encoder.encoder_layers.3.mamba.dt_proj.bias",
        "encoder.LayerNorm.beta",
        "decoder.residual_blocks.1.conv2.norm.weight",
    ],
)
def test_the_golden_hears_every_kind_of_entry(name: str) -> None:
    hears(golden(CASE), fitting(), name)


def test_loads_with_and_without_aliases_in_the_trainers_nesting() -> None:
    bare, full = fitting(), fitting()
    bare.load_published(golden(CASE).state())
    report = full.load_published({"network_weights": {f"module.{k}": v for k, v in published().items()}})
    assert report.matched == len(full.state_dict())
    assert all(name.endswith("skip_scale") for name in report.ignored)
    for name, value in bare.state_dict().items():
        assert torch.equal(value, full.state_dict()[name])


def test_without_deep_supervision_the_other_heads_are_ignored() -> None:
    ignored = fitting(deep_supervision=False).load_published(published()).ignored
    assert {name for name in ignored if "seg_layers" in name} == {
        f"decoder.seg_layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }


def test_loading_is_strict() -> None:
    network = fitting()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = golden(CASE).state()
    del state["encoder.encoder_layers.2.mamba.A_log"]
    with pytest.raises(WeightsError, match=r"missing: mixers\.2\.mamba\.log_rates"):
        network.load_published(state)
    with pytest.raises(WeightsError, match="left over: surplus"):
        network.load_published(golden(CASE).state() | {"surplus": torch.zeros(2)})
    contradiction = {"decoder.encoder.LayerNorm.beta": torch.full((16,), 7.0)}
    with pytest.raises(WeightsError, match=r"two versions of encoder\.LayerNorm\.beta"):
        network.load_published(golden(CASE).state() | contradiction)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_trace_and_export_give_the_same() -> None:
    traces_and_exports(small(), torch.randn(2, 2, 8, 16, 16))


@pytest.mark.slow
def test_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    exports_to_onnx(small(), torch.randn(1, 2, 8, 16, 16), tmp_path)
