"""Swin UNETR beyond parity: MONAI's numbers on every path, training, refusals, checkpoints, export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import monai.networks.nets.swin_unetr as monai_swin
import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import SwinUNETR
from tests.networks.checks import exports_to_onnx, traces_and_exports, trains

SMALL: dict[str, Any] = {"feature_size": 12, "depths": (2, 1, 1, 1)}


def pair(**changes: Any) -> tuple[SwinUNETR, monai_swin.SwinUNETR]:
    """Ours and MONAI's, with the same weights; position biases large enough to be heard."""
    torch.manual_seed(0)
    config = SMALL | changes
    merging = config.pop("patch_merging", "current")
    ours = SwinUNETR(1, 2, patch_merging=merging, **config)
    theirs = monai_swin.SwinUNETR(1, 2, downsample="mergingv2" if merging == "v2" else "merging", **config)
    for name, parameter in ours.named_parameters():
        if name.endswith(("relative_position_bias_table", ".bias")):
            torch.nn.init.normal_(parameter, std=0.5)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def small(**changes: Any) -> SwinUNETR:
    torch.manual_seed(0)
    return SwinUNETR(1, 2, **(SMALL | changes))


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert float((ours - theirs).abs().max() / theirs.std()) < tolerance


# The windows of 7 leave a part of an axis of 16 or 48 tokens over, and pad it.
@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 1, 32, 64, 32)),
        ({"window_size": (4, 7, 5), "use_v2": True, "normalize": False}, (1, 1, 32, 64, 32)),
        ({"norm_name": ("instance", {"affine": True}), "patch_merging": "v2"}, (1, 1, 32, 32, 64)),
        ({"spatial_dims": 2}, (2, 1, 96, 64)),
    ],
)
def test_equals_monai(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    ours, theirs = (network.eval() for network in pair(**changes))
    image = torch.randn(shape)
    close(ours(image), theirs(image), 1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 96, 160), pytest.param((1, 1, 64, 96, 32), marks=pytest.mark.slow)])
def test_values_and_gradients_equal_monais(shape: tuple[int, ...]) -> None:
    ours, theirs = (network.double() for network in pair(spatial_dims=len(shape) - 2))
    image = torch.randn(shape, dtype=torch.float64)
    logits, expected = ours(image), theirs(image)
    close(logits.detach(), expected.detach(), 1e-10)
    for output in (logits, expected):
        output.square().mean().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9, msg=name)


@torch.no_grad()
def test_inference_and_training_paths_agree() -> None:
    network = small().eval()
    image = torch.randn(1, 1, 32, 32, 64)
    with torch.enable_grad():
        slow = network(image).detach()
    close(network(image), slow, 1e-4)


def test_checkpointing_changes_no_gradient() -> None:
    plain, frugal = small(spatial_dims=2), small(spatial_dims=2, use_checkpoint=True)
    frugal.load_state_dict(plain.state_dict())
    image = torch.randn(1, 1, 64, 64)
    for network in (plain, frugal):
        network(image).square().mean().backward()
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("autocast", [False, True])
def test_trains_on_sizes_in_turn(autocast: bool) -> None:
    network = small(drop_rate=0.1, attn_drop_rate=0.1, dropout_path_rate=0.1)
    trains(network, [torch.randn(1, 1, 64, 32, 32), torch.randn(1, 1, 32, 64, 32)], autocast=autocast)


@torch.no_grad()
def test_autocast_inference_is_finite() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = small().eval()(torch.randn(1, 1, 32, 32, 64))
    assert logits.isfinite().all()


@torch.no_grad()
def test_the_mergings_differ() -> None:
    image = torch.randn(1, 1, 32, 32, 64)
    networks = [small(patch_merging=name).eval() for name in ("current", "legacy", "v2")]
    for network in networks[1:]:
        network.load_state_dict(networks[0].state_dict())
    current, legacy, v2 = (network(image) for network in networks)
    for other in (legacy, v2):
        assert float((current - other).norm() / current.norm()) > 0.05


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 80, 32, 32), "multiples of 32"),
        ((1, 1, 32, 32, 32), "one of them 64"),
        ((1, 2, 32, 32, 32), r"\(B, 1, D, H, W\)"),
        ((1, 1, 32), "needs"),
    ],
)
def test_refuses_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_refuses_an_unknown_merging() -> None:
    with pytest.raises(ValueError, match="patch_merging must be one of"):
        small(patch_merging="old")


def test_loading_is_strict_and_asks_for_the_merging() -> None:
    network, published = small(patch_merging="legacy"), small().state_dict()
    old_names = {name.replace(".mlp.linear", ".mlp.fc"): value for name, value in published.items()}
    nested = {"state_dict": {f"module.{name}": value for name, value in old_names.items()}}
    assert network.load_published(nested).matched == len(published)
    torch.testing.assert_close(network.state_dict(), published)
    without = {n: v for n, v in published.items() if not n.endswith(("position_index", "decoder2"))}
    network.load_published(without)
    del without["swinViT.layers1.0.blocks.1.norm2.weight"]
    with pytest.raises(WeightsError, match=r"missing: swinViT\.layers1\.0\.blocks\.1\.norm2\.weight"):
        network.load_published(without)
    with pytest.raises(WeightsError, match="build it with patch_merging='legacy'"):
        small().load_published(published)
    assert small().load_published(published, "current").matched == len(published)


@pytest.mark.parametrize("layout", ["contrastive", "autoencoder"])
def test_self_supervised_encoders_load(layout: str) -> None:
    """The two published layouts: wrapped with old names, and with stages nested once more."""
    donor = {n.removeprefix("swinViT."): v for n, v in small().state_dict().items() if "swinViT." in n}
    if layout == "contrastive":
        prefix, stage, head = "module.", "layers3.0.", "rotation_head.bias"
        state = {f"{prefix}{name.replace('.mlp.linear', '.mlp.fc')}": value for name, value in donor.items()}
        source = {"state_dict": state | {"module.rotation_head.bias": torch.zeros(4)}}
    else:
        prefix, stage, head = "encoder.", "layers3.0.0.", "encoder.mask_token"
        state = {prefix + re.sub(r"^(layers.)", r"\1.0", name): value for name, value in donor.items()}
        source = {
            "model": state | {"encoder.mask_token": torch.zeros(1), "out.conv.conv.bias": torch.zeros(2)}
        }
    torch.manual_seed(1)
    network = SwinUNETR(1, 3, patch_merging="legacy", **SMALL)
    before = network.encoder1.layer.conv1.conv.weight.clone()
    report = network.load_encoder(source)
    assert report.matched == len(donor) and report.ignored[0] == head
    torch.testing.assert_close(dict(network.swinViT.state_dict()), donor)
    torch.testing.assert_close(network.encoder1.layer.conv1.conv.weight, before)
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight is \(12, 1"):
        SwinUNETR(4, 3, patch_merging="legacy", **SMALL).load_encoder(source)
    del state[f"{prefix}{stage}downsample.reduction.weight"]
    with pytest.raises(WeightsError, match=r"missing: layers3\.0\.downsample\.reduction\.weight"):
        network.load_encoder({"model": state})


@pytest.mark.parametrize(
    ("shape", "window_size"),
    [((2, 1, 64, 96), 4), pytest.param((2, 1, 32, 32, 64), 7, marks=pytest.mark.slow)],
)
def test_traces_and_exports(shape: tuple[int, ...], window_size: int) -> None:
    traces_and_exports(small(spatial_dims=len(shape) - 2, window_size=window_size), torch.randn(shape))


@pytest.mark.slow
def test_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    exports_to_onnx(small(spatial_dims=2), torch.randn(1, 1, 64, 96), tmp_path)
