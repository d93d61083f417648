"""MONAI's UNETR blocks on a CPU: the same results as the blocks themselves, and when they may be used."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from torch import nn

from medvit.networks.layers import cpu_blocks
from medvit.networks.layers.forms import as_on_device


def channels_last(x: torch.Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize(("inside", "outside", "stride"), [(4, 4, 1), (3, 5, 1), (4, 6, 2)])
@torch.no_grad()
def test_encoding_gives_what_the_block_gives(inside: int, outside: int, stride: int) -> None:
    torch.manual_seed(0)
    block = UnetrBasicBlock(3, inside, outside, 3, stride, "instance", res_block=True).eval()
    x = torch.randn(2, inside, 6, 5, 4)
    found = cpu_blocks.encode(block, x)
    torch.testing.assert_close(found, block(x), rtol=1e-4, atol=1e-5)
    assert channels_last(found)


@pytest.mark.parametrize("kernel", [2, (2, 1, 2)])
@torch.no_grad()
def test_joining_gives_what_the_block_gives(kernel: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = UnetrUpBlock(3, 6, 4, 3, kernel, "instance", res_block=True).eval()
    x = torch.randn(2, 6, 3, 4, 2)
    size = [
        n * k for n, k in zip((3, 4, 2), (kernel,) * 3 if isinstance(kernel, int) else kernel, strict=True)
    ]
    skip = torch.randn(2, 4, *size)
    torch.testing.assert_close(cpu_blocks.join(block, x, skip), block(x, skip), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_input_is_left_as_it_was() -> None:
    block = UnetrBasicBlock(3, 4, 4, 3, 1, "instance", res_block=True).eval()
    x = torch.randn(1, 4, 4, 4, 4)
    before = x.clone()
    cpu_blocks.encode(block, x)
    assert torch.equal(x, before)


@torch.no_grad()
def test_large_maps_are_normalised_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = UnetrBasicBlock(3, 4, 4, 3, 1, "instance", res_block=True).eval()
    x = torch.randn(1, 4, 6, 6, 6)
    whole = cpu_blocks.encode(block, x)
    monkeypatch.setattr(cpu_blocks, "CHUNK", 40)
    torch.testing.assert_close(cpu_blocks.encode(block, x), whole)


def test_blocks_serve_inference_in_float32_on_a_cpu_only() -> None:
    image, weight = torch.zeros(1, 1, 2, 2, 2), nn.Conv3d(1, 1, 1).weight
    assert not cpu_blocks.apply(image, weight), "they have no gradient"
    with torch.no_grad():
        assert cpu_blocks.apply(image, weight) == torch.backends.mkldnn.is_available()
        assert not cpu_blocks.apply(image.double(), weight)
        assert not cpu_blocks.apply(image.to("meta"), weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert not cpu_blocks.apply(image, weight)
        with as_on_device():
            assert not cpu_blocks.apply(image, weight)
