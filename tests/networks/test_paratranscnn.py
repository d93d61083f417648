"""ParaTransCNN beyond parity: training, sizes, refusals, checkpoints, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import ParaTransCNN
from tests.networks.checks import exports_to_onnx, traces_and_exports, trains
from tests.networks.goldens import golden


def small(in_channels: int = 1) -> ParaTransCNN:
    torch.manual_seed(0)
    return ParaTransCNN(in_channels, 2, dim=8, num_heads=2, depths=(1, 1, 1))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return golden("paratranscnn_small").state()


def golden_network() -> ParaTransCNN:
    return ParaTransCNN(3, 4, dim=32, num_heads=4, depths=(1, 2, 1))


@pytest.mark.parametrize("autocast", [False, True])
def test_trains_on_sizes_in_turn(autocast: bool) -> None:
    trains(small(), [torch.randn(2, 1, 32, 48), torch.randn(1, 1, 48, 32)], autocast=autocast)


def test_attention_output_is_dropped_at_the_rate_of_two_dropouts() -> None:
    block = small().transformer[0].blocks[0]
    assert block.path_dropout.p == pytest.approx(0.19)


@torch.no_grad()
def test_a_grey_slice_is_three_equal_channels() -> None:
    grey, colour = small(1).eval(), small(3).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.randn(1, 1, 32, 64)
    torch.testing.assert_close(grey(image), colour(image.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 1, 40, 64), "multiple of 16"), ((1, 3, 32, 32), r"needs an image \(B, 1"), ((1, 32, 32), "needs")],
)
def test_refuses_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"num_heads \(3\) must divide"):
        ParaTransCNN(dim=32, num_heads=3)


def test_loading_is_strict(published: dict[str, Tensor]) -> None:
    network = golden_network()
    nested = {"state_dict": {f"module.{name}": value for name, value in published.items()}, "epoch": 145}
    assert network.load_published(nested).matched == len(published)
    incomplete = {name: value for name, value in published.items() if name != "SE_2.fc.0.weight"}
    with pytest.raises(WeightsError, match=r"missing: gates\.1\.gate\.0\.weight"):
        network.load_published(incomplete)
    with pytest.raises(WeightsError, match="left over: extra"):
        network.load_published(published | {"extra": torch.zeros(1)})


@torch.no_grad()
def test_imagenet_weights_fill_the_convolutional_branch(published: dict[str, Tensor]) -> None:
    names = {"firstconv": "conv1", "firstbn": "bn1"} | {f"encoder{i}": f"layer{i}" for i in range(1, 5)}
    resnet = {
        name.replace(name.split(".")[0], names[name.split(".")[0]], 1): value
        for name, value in published.items()
        if name.split(".")[0] in names
    }
    classifier = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    network = golden_network()
    before = network.readout.weight.clone()
    report = network.load_imagenet(resnet | classifier)
    assert (report.matched, report.ignored) == (len(resnet), ("fc.weight", "fc.bias"))
    torch.testing.assert_close(network.cnn.layer4[2].conv2.weight, published["encoder4.2.conv2.weight"])
    torch.testing.assert_close(network.readout.weight, before)
    del resnet["layer3.5.bn2.bias"]
    with pytest.raises(WeightsError, match=r"missing: layer3\.5\.bn2\.bias"):
        network.load_imagenet(resnet)


def test_traces_and_exports() -> None:
    traces_and_exports(small(), torch.randn(2, 1, 32, 48))


@pytest.mark.slow
def test_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    exports_to_onnx(small(), torch.randn(2, 1, 32, 48), tmp_path)
