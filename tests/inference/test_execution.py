"""Compiled networks and autocast give the labels of the plain network, and are what really runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medvit.inference import Execution, SliceInferer, StreamingWindowInferer

IMAGE = torch.randn(1, 1, 24, 20, 28, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Two convolutions; a class of its own, as `torch.compile` passes over a bare `nn.Sequential`."""

    def __init__(self, conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv3d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = conv(1, 6, 3, padding=1), conv(6, 4, 3, padding=1)

    def forward(self, windows: Tensor) -> Tensor:
        return self.last(self.first(windows).relu())


def labels(net: nn.Module, **execution: object) -> Tensor:
    return StreamingWindowInferer((16, 16, 16), execution=Execution(**execution))(IMAGE, net)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_networks_give_the_same_labels(backend: str) -> None:
    net = Network()
    expected = labels(net)
    compiled = labels(net, compile=backend)
    assert torch.equal(compiled, expected)
    assert net._compiled_call_impl is not None


def test_a_network_is_compiled_once_for_all_studies() -> None:
    """The same holds for networks of slices, whose three-dimensional view is made anew for each study."""
    graphs = []

    def note(graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    execution = Execution(compile=note)
    volumes = StreamingWindowInferer((16, 16, 16), execution=execution), Network()
    slices = SliceInferer((16, 16), slices=4, execution=execution), Network(nn.Conv2d)
    for inferer, net in (volumes, slices):
        torch.compiler.reset()
        graphs.clear()
        first = inferer(IMAGE, net)
        assert torch.equal(inferer(IMAGE, net), first)
        assert len(graphs) == 1


def test_autocast_runs_in_bf16_and_blends_in_float32() -> None:
    net, types = Network(), set()
    expected = labels(net)
    net.register_forward_hook(lambda _module, _windows, logits: types.add(logits.dtype))
    found = labels(net, amp="bf16")
    assert types == {torch.bfloat16}
    # bf16 keeps 8 bits of a logit: only voxels whose two best classes nearly tie may change.
    assert 0.97 < (found == expected).float().mean() < 1
    assert not torch.is_autocast_enabled("cpu")
