"""xLSTM-UNet beyond parity: the chunked mLSTM, training, sizes, refusals, strictness, export."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import XLSTMUNet
from medvit.networks.xlstm_unet import CHUNK, ViLMixer, mlstm
from tests.networks.checks import exports_to_onnx, hears, traces_and_exports, trains
from tests.networks.goldens import golden

VARIANTS: dict[str, dict[str, Any]] = {
    "bot2d": {"spatial_dims": 2, "features": (8, 16, 32), "strides": (1, 2, 2)},
    "bot3d": {"features": (8, 16, 20), "strides": (1, 2, (1, 2, 2))},
    "enc2d": {"spatial_dims": 2, "variant": "enc", "features": (4, 8, 12, 16), "strides": (1, 2, 2, 2)},
    "enc3d": {"variant": "enc", "features": (4, 8, 8, 12), "strides": (1, 2, 2, (1, 2, 2))},
}
CASE = "xlstm_unet_bot2d_small"
SIZES = {2: ((16, 24), (32, 16)), 3: ((16, 16, 24), (24, 32, 16))}


def small(name: str, **changes: Any) -> XLSTMUNet:
    torch.manual_seed(0)
    return XLSTMUNet(**({"in_channels": 2, "out_channels": 3} | VARIANTS[name] | changes))


def images(name: str, batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, 2, *size) for size in SIZES[VARIANTS[name].get("spatial_dims", 3)]]


def dense_mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The definition, over an S x S matrix."""
    kept = torch.nn.functional.logsigmoid(f).cumsum(-1)
    logs = kept[..., :, None] - kept[..., None, :] + i[..., None, :]
    logs = logs.masked_fill(torch.ones(logs.shape[-2:]).triu(1).bool(), -math.inf)
    scale = logs.amax(-1, keepdim=True)
    weights = (logs - scale).exp() * (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    return weights @ v / (torch.maximum(weights.sum(-1, keepdim=True).abs(), (-scale).exp()) + 1e-6)


@pytest.mark.parametrize("length", [1, 5, CHUNK, CHUNK + 1, 3 * CHUNK, 200])
@pytest.mark.parametrize(("forget", "gain"), [(4.0, 0.0), (-6.0, 0.0), (20.0, 3.0), (0.0, -30.0)])
def test_chunks_give_what_the_matrix_gives(length: int, forget: float, gain: float) -> None:
    torch.manual_seed(length)
    shapes = [(2, 3, length, 8)] * 3 + [(2, 3, length)] * 2
    leaves = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    leaves[3], leaves[4] = 3 * leaves[3] + gain, leaves[4] + forget
    weight = torch.randn(shapes[0], dtype=torch.float64)
    results = []
    for form in (mlstm, dense_mlstm):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        h = form(*inputs)
        (h * weight).sum().backward()
        results.append([h.detach(), *(leaf.grad for leaf in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7 * float(theirs.abs().max()) + 1e-12)


def test_gates_at_their_limits_stay_finite_in_float32() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 300, 8).unbind(0)
    for forget in (-500.0, 500.0):
        for gain in (-200.0, 200.0):
            i = torch.full((1, 2, 300), gain, requires_grad=True)
            f = torch.full((1, 2, 300), forget, requires_grad=True)
            h = mlstm(q, k, v, i, f)
            h.sum().backward()
            assert h.isfinite().all()
            assert i.grad is not None and i.grad.isfinite().all()
            assert f.grad is not None and f.grad.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("autocast", [False, True])
def test_trains_on_different_sizes(name: str, autocast: bool) -> None:
    trains(small(name), images(name), autocast=autocast)


@torch.no_grad()
@pytest.mark.parametrize("name", ["enc2d", "enc3d"])
def test_without_img_size_any_size_is_taken(name: str) -> None:
    network = small(name).eval()
    first, second = images(name, 1)
    before = network(first)
    assert network(second).shape == (1, 3, *second.shape[2:])
    assert torch.equal(network(first), before)


@torch.no_grad()
def test_with_img_size_channels_become_tokens_and_the_size_is_tied() -> None:
    network = small("enc2d", img_size=(16, 24)).eval()
    assert [m.channel_tokens for m in network.mixers if isinstance(m, ViLMixer)] == [True]
    fitting, other = images("enc2d", 1)
    assert network(fitting).shape == (1, 3, 16, 24)
    with pytest.raises(ValueError, match=r"accepts only images of \(16, 24\), not \(32, 16\)"):
        network(other)


def test_blocks_of_the_2d_encoder_end_at_the_last_stage() -> None:
    for count, expected in ((7, [2, 4, 6]), (8, [3, 5, 7]), (6, [3, 5])):
        network = XLSTMUNet(2, variant="enc", features=[4] * count, strides=[1] + [2] * (count - 1))
        assert [i for i, mixer in enumerate(network.mixers) if isinstance(mixer, ViLMixer)] == expected


@torch.no_grad()
def test_the_finest_skip_is_used_in_3d_only() -> None:
    for name, uses in (("bot2d", False), ("bot3d", True)):
        network = small(name).eval()
        maps = network.encode(images(name, 1)[0])
        before = network.decoder(maps, 1)[0]
        maps[0] = maps[0].flip(-1)
        assert torch.equal(network.decoder(maps, 1)[0], before) is not uses


def test_training_gives_every_level_and_evaluation_the_finest() -> None:
    network = small("bot3d", deep_supervision=True)
    image = images("bot3d", 1)[0]
    assert [tuple(x.shape[2:]) for x in network(image)] == [(16, 16, 24), (8, 8, 12)]
    network.eval()
    assert torch.equal(network(image), network.levels(image)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, not 1"),
        ({"variant": "dec"}, "variant must be 'bot' or 'enc', not 'dec'"),
        ({"img_size": (32, 32)}, r"img_size must have 3 entries, not \[32, 32\]"),
        ({"variant": "enc"}, "no Vision-LSTM block in 3 stages"),
        ({"features": (8, 16)}, "need one entry for each of two or more stages"),
    ],
)
def test_refuses_an_impossible_configuration(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("bot3d", **changes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 8, 16, 16), r"needs an image \(B, 2, H, W\)"),
        ((1, 2, 16, 18), r"divisible by \[4, 4\], not \[16, 18\]"),
        ((1, 2, 4, 4), "one position at the deepest stage"),
    ],
)
def test_refuses_an_image_that_does_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("bot2d")(torch.zeros(shape))


def fitting() -> XLSTMUNet:
    config = golden(CASE).manifest["config"]
    return XLSTMUNet(2, 3, 4, features=config["features"], strides=(1, 2, 2, 2, 2))


@pytest.mark.parametrize(
    "name",
    [
        "encoder.stages.2.0.conv3.bias",
        "xlstm.vil.norm.weight",
        "xlstm.vil.layer.k_proj.weight",
        "xlstm.vil.layer.mlstm_cell.fgate.weight",
        "xlstm.vil.layer.mlstm_cell.outnorm.weight",
        "xlstm.vil.layer.learnable_skip",
    ],
)
def test_the_golden_hears_every_kind_of_entry(name: str) -> None:
    hears(golden(CASE), fitting(), name)


def test_loads_with_and_without_aliases_in_the_trainers_nesting() -> None:
    bare, full = fitting(), fitting()
    state = golden(CASE).state()
    bare.load_published(state)
    aliased = state | {alias: state[name] for alias, name in golden(CASE).manifest["aliases"].items()}
    report = full.load_published({"network_weights": {f"_orig_mod.{k}": v for k, v in aliased.items()}})
    assert report.matched == len(full.state_dict())
    assert {"xlstm.norm.weight", "decoder.seg_layers.0.bias"} <= set(report.ignored)
    for name, value in bare.state_dict().items():
        assert torch.equal(value, full.state_dict()[name])


def test_loading_is_strict() -> None:
    network = fitting()
    state = golden(CASE).state()
    gate = state.pop("xlstm.vil.layer.mlstm_cell.igate.bias")
    with pytest.raises(WeightsError, match=r"missing: mixers\.4\.block\.input_gate\.bias"):
        network.load_published(state)
    state["xlstm.vil.layer.mlstm_cell.igate.bias"] = gate[:2]
    with pytest.raises(WeightsError, match=r"input_gate\.bias is \(2,\), the network needs \(4,\)"):
        network.load_published(state)


@pytest.mark.parametrize("name", ["bot2d", "enc3d"])
def test_trace_and_export_give_the_same(name: str) -> None:
    traces_and_exports(small(name), images(name)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bot3d", "enc2d"])
def test_exports_to_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    exports_to_onnx(small(name), images(name)[0], tmp_path)
