"""Compiled networks and autocast give the labels of the plain network, and are what really runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.inference import Execution, SliceInferer, StreamingWindowInferer
from medvit.studies.study import Grid

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


def test_what_is_done_with_logits_of_half_precision_stays_in_float32() -> None:
    """Interpolation to another grid by matrix products must not fall under autocast."""
    fine = Grid((40, 35, 47), np.diag([0.6, 0.6, 0.6, 1.0]))
    volume = MetaTensor(IMAGE[0], affine=torch.eye(4))
    names = ("probability:1",)
    execution = Execution(amp="bf16")

    def exact(windows: Tensor) -> Tensor:
        return torch.cat([windows, -windows / 3], 1)

    maps = [
        StreamingWindowInferer((16, 16, 16), maps=names, execution=e).infer(volume, exact, fine).maps
        for e in (execution, Execution())
    ]
    assert np.allclose(maps[0][names[0]], maps[1][names[0]], atol=1e-6)


def test_tf32_is_set_during_the_inference_only() -> None:
    backend = torch.backends.cuda.matmul
    before = backend.allow_tf32
    for wanted in (True, False, None):
        with Execution(tf32=wanted).running([Network()]):
            assert backend.allow_tf32 == (before if wanted is None else wanted)
        assert backend.allow_tf32 == before


@pytest.mark.parametrize(
    ("execution", "capability", "reason"),
    [
        (Execution(amp="fp16"), None, "fp16 needs a GPU"),
        (Execution(tf32=True), None, "device cpu is not"),
        (Execution(tf32=True), (7, 5), "Old GPU is not"),
        (Execution(amp="bf16"), (7, 5), "Old GPU has no bf16"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused(
    execution: Execution, capability: tuple[int, int] | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(MedvitError, match=reason):
        execution.check(torch.device("cpu" if capability is None else "cuda"))
    if capability is None:
        with pytest.raises(MedvitError, match=reason):
            StreamingWindowInferer((16, 16, 16), execution=execution)(IMAGE, Network())
    capability = (9, 0)
    execution.check(torch.device("cuda"))


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MedvitError, match="no precision 'half'"):
        Execution(amp="half")
