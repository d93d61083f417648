"""SegFormer3D beyond parity: sizes, the detail head, training, refusals, export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from medvit.errors import WeightsError
from medvit.networks import SegFormer3D
from medvit.networks.layers import pyramid
from tests.networks.checks import exports_to_onnx, traces_and_exports, trains
from tests.networks.goldens import golden

GOLDEN = golden("segformer3d_small")


def small(**changes: object) -> SegFormer3D:
    torch.manual_seed(0)
    config: dict = {
        "embed_dims": (16, 32, 64, 96), "num_heads": (2, 4, 4, 6), "depths": (1, 1, 1, 1),
        "mlp_ratios": (2, 2, 2, 2), "decoder_dim": 32, **changes,
    }  # fmt: skip
    return SegFormer3D(1, 3, **config)


def detailed() -> SegFormer3D:
    return small(
        head="detail", norm="group", patch_kernel_size=(3, 3, 3, 3), patch_stride=(2, 2, 2, 2),
        patch_padding=(1, 1, 1, 1),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 48, 40), (33, 45, 70), (13, 64, 30)])
def test_the_output_has_the_size_of_the_image(size: tuple[int, int, int]) -> None:
    assert small().eval()(torch.randn(1, 1, *size)).shape == (1, 3, *size)


@torch.no_grad()
def test_a_size_that_no_stride_divides_is_the_corner_of_a_larger_one() -> None:
    network = small().eval()
    large = torch.zeros(1, 1, 36, 36, 36)
    large[..., :34, :34, :34] = torch.randn(1, 1, 34, 34, 34)
    torch.testing.assert_close(network(large[..., :34, :34, :34]), network(large)[..., :34, :34, :34])


@torch.no_grad()
def test_the_detail_head_resolves_single_voxels() -> None:
    image = torch.randn(1, 1, 32, 32, 32)
    rough = []
    for network in (small(), detailed()):
        logits = network.eval()(image)
        rough.append(float(logits.diff(dim=-1).std() / logits.std()))
    assert rough[1] > 0.8 > 0.4 > rough[0], "neighbouring voxels differ only where the head resolves them"


@pytest.mark.parametrize("build", [partial(small, decoder_dim=64), detailed])
@pytest.mark.parametrize("size", [(64, 48, 40), (52, 64, 34)])
def test_inference_on_a_cpu_computes_the_plain_form(
    build: Callable[[], SegFormer3D], size: tuple[int, ...]
) -> None:
    network = build().eval()
    for part in network.modules():
        if isinstance(part, nn.LayerNorm | nn.BatchNorm3d | nn.GroupNorm):
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean, part.running_var = torch.randn(len(part.weight)), torch.rand(len(part.weight))
    image = torch.randn(2, 1, *size)
    plain = network(image).detach()
    with torch.no_grad(), mock.patch.object(pyramid, "fused", wraps=pyramid.fused) as quick:
        found = network(image)
    assert quick.called
    assert float((found - plain).abs().max()) < 1e-5 * float(plain.max() - plain.min())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("build", [small, detailed])
def test_trains(build: type[SegFormer3D], autocast: bool) -> None:
    trains(build(), [torch.randn(2, 1, 32, 32, 32), torch.randn(1, 1, 32, 48, 40)], autocast=autocast)


@pytest.mark.parametrize(
    ("changes", "image", "sentence"),
    [
        ({}, (1, 2, 32, 32, 32), r"needs an image \(B, 1, D, H, W\)"),
        ({}, (1, 1, 32, 32), "needs an image"),
        ({}, (1, 1, 12, 32, 32), "pad the image"),
        ({"head": "linear"}, None, "'mlp' or 'detail'"),
        ({"attention_scale": "none"}, None, "'head_dim' or 'heads'"),
        ({"num_heads": (3, 4, 4, 6)}, None, "must divide"),
        ({"norm": "layer"}, None, "'batch' or 'group'"),
    ],
)
def test_refuses(changes: dict, image: tuple[int, ...] | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**changes)(torch.zeros(image or (1, 1, 32, 32, 32)))


def test_the_detail_head_refuses_odd_edges() -> None:
    with pytest.raises(ValueError, match="even edges"):
        detailed()(torch.zeros(1, 1, 33, 32, 32))


def published() -> SegFormer3D:
    from tests.networks.adapters.segformer3d import build

    return build(GOLDEN)


@pytest.mark.parametrize("nesting", ["bare", "state_dict", "model", "module."])
def test_a_checkpoint_is_found_in_its_nesting(nesting: str, tmp_path: Path) -> None:
    state = GOLDEN.state()
    content = {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state},
        "module.": {f"module.{name}": value for name, value in state.items()},
    }[nesting]
    torch.save(content, tmp_path / "weights.pt")
    network = published()
    assert network.load_published(tmp_path / "weights.pt").matched == len(state)
    name = "stages.0.embed.proj.weight"
    torch.testing.assert_close(
        network.state_dict()[name], state["segformer_encoder.embed_1.patch_embeddings.weight"]
    )


def test_gaps_and_left_overs_are_named() -> None:
    state = GOLDEN.state()
    missing = "segformer_decoder.linear_pred.weight"
    with pytest.raises(WeightsError, match=r"missing: head\.readout\.weight"):
        published().load_published({k: v for k, v in state.items() if k != missing})
    with pytest.raises(WeightsError, match="left over: surplus"):
        published().load_published(state | {"surplus": torch.zeros(1)})
    with pytest.raises(WeightsError, match="wrong shape"):
        published().load_published(state | {missing: torch.zeros(1)})


def test_a_pickled_object_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "canary",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="plain tensors"):
        published().load_published(tmp_path / "evil.pt")
    assert not (tmp_path / "canary").exists()


def test_a_training_log_of_numpy_numbers_does_not_shut_the_file(tmp_path: Path) -> None:
    log = {"losses": [np.float32(0.5), np.float64(0.25)], "epoch": np.int64(3)}
    torch.save({"network_weights": GOLDEN.state(), "logging": log}, tmp_path / "checkpoint_final.pth")
    assert published().load_published(tmp_path / "checkpoint_final.pth").matched > 0


@pytest.mark.parametrize("build", [small, detailed])
def test_exports(build: type[SegFormer3D]) -> None:
    traces_and_exports(build(), torch.randn(2, 1, 32, 32, 32))


@pytest.mark.slow
def test_exports_to_onnx(tmp_path: Path) -> None:
    exports_to_onnx(small(), torch.randn(1, 1, 32, 32, 32), tmp_path)
