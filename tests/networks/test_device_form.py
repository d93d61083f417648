"""On a device networks take another form: the same function in a number of operators that does not grow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks._measure import Launches
from medvit.networks import RAT, DFormer, MambaClinix, ParaTransCNN, SwinUNETR, TransUNet, XLSTMUNet
from medvit.networks.layers.forms import as_on_device
from medvit.networks.region_input import RegionInput


def mixers(cls: type[nn.Module]) -> nn.Module:
    return cls(in_channels=1, out_channels=3, features=[16, 32, 64], kernel_size=3, strides=[1, 2, 2])


def swin() -> nn.Module:
    return SwinUNETR(1, 3, feature_size=12)


def rat() -> nn.Module:
    network = RegionInput(RAT(1, width=8, num_blocks=1, layers_per_block=2, num_heads=2))
    for name, scale in network.named_parameters():
        if name.endswith(("_scale", "scale1", "scale2")):
            nn.init.constant_(scale, 0.3)
    return network


def with_map(image: Tensor) -> Tensor:
    """Regions of many sizes as a second channel."""
    regions = (torch.rand(image.shape, generator=torch.Generator().manual_seed(2)) * 60).square() // 40
    return torch.cat([image, regions], 1)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "swin": (swin, (64, 32, 32), (64, 64, 32)),
    "d_former": (
        lambda: DFormer(1, 3, embed_dim=24, depths=(2, 2, 2, 2), deep_supervision=False),
        (16, 64, 64),
        (20, 96, 64),
    ),
    "mambaclinix": (lambda: mixers(MambaClinix), (16, 16, 16), (24, 24, 24)),
    "xlstm": (lambda: mixers(XLSTMUNet), (16, 16, 16), (24, 24, 24)),
    "rat": (rat, (32, 32), (64, 64)),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0]().eval()


def image_of(name: str, size: tuple[int, ...]) -> Tensor:
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    return with_map(image) if name == "rat" else image


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_both_forms_are_one_function(name: str) -> None:
    network = built(name)
    image = image_of(name, CASES[name][2])
    expected = network(image)
    with as_on_device():
        found = network(image)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_operators_do_not_grow_with_the_image_and_nothing_is_read_back(name: str) -> None:
    network, counts = built(name), []
    for size in CASES[name][1:]:
        image = image_of(name, size)
        with as_on_device(), Launches() as launches:
            network(image)
        assert launches.reads == 0
        counts.append(launches.operators)
    # Of an image two to eight times as large: a recurrence takes a few steps more, and some sizes are padded.
    assert counts[1] <= 1.25 * counts[0]


def test_gradients_are_those_of_the_cpu_form() -> None:
    for name in ("swin", "xlstm", "mambaclinix"):
        network, image = built(name), image_of(name, CASES[name][1])
        grads = []
        for _ in range(2):
            network.zero_grad()
            if grads:
                with as_on_device():
                    network(image).square().mean().backward()
            else:
                network(image).square().mean().backward()
            grads.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert (grads[0] - grads[1]).norm() <= 1e-3 * grads[0].norm(), name


@pytest.mark.parametrize("cls", [TransUNet, ParaTransCNN])
@torch.inference_mode()
def test_networks_of_slices_take_many_in_one_pass(cls: type[nn.Module]) -> None:
    small = {"hidden_size": 48, "num_heads": 4, "mlp_dim": 48, "num_layers": 1, "resnet_width": 32}
    network = (
        TransUNet(1, 3, 32, **small) if cls is TransUNet else ParaTransCNN(1, 3, dim=32, depths=(1, 1, 1))
    ).eval()
    counts = []
    for slices in (1, 6):
        with Launches() as launches:
            network(torch.zeros(slices, 1, 32, 32))
        counts.append(launches.operators)
        assert launches.reads == 0
    assert counts[1] <= 1.1 * counts[0]
