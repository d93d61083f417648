"""Recorded launches are only used where they give what the network gives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medvit.inference import Execution, StreamingWindowInferer, graphs
from medvit.inference.graphs import Replays, record_launches, release_recordings, replayed
from medvit.networks import SegFormer3D
from medvit.networks.layers.forms import as_on_device
from tests.inference import recorded
from tests.networks.test_device_form import CASES, built, image_of


class Network(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, 4, 3, padding=1)
        self.calls = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.first(windows).relu())


class Noted:
    """`recorded.record`, with the shapes that it was asked for."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def __call__(self, network: Callable[[Tensor], Tensor], windows: Tensor) -> Callable[[Tensor], Tensor]:
        self.shapes.append(windows.shape)
        return recorded.record(network, windows)


def windows(*size: int) -> Tensor:
    return torch.randn(*size, 1, 8, 8, 8)


@torch.inference_mode()
def test_launches_are_replayed_after_a_warm_up_without_calling_the_network() -> None:
    net, record = Network().eval(), Noted()
    replays = Replays(record)
    for _ in range(5):
        for asked in (windows(2), windows(1)):
            assert torch.equal(replays(net, asked), net(asked))
    assert record.shapes == [(2, 1, 8, 8, 8), (1, 1, 8, 8, 8)] and not replays.notes
    before = net.calls
    first, second = (replays(net, windows(2)) for _ in range(2))
    assert net.calls == before and not torch.equal(first, second)
    # Other weights in other memory are recorded anew, and what was recorded of the old ones goes.
    net.first.weight = nn.Parameter(2 * net.first.weight)
    for _ in range(3):
        asked = windows(2)
        assert torch.equal(replays(net, asked), net(asked))
    assert len(record.shapes) == 3 and len(replays.recorded) == 1


@torch.inference_mode()
def test_half_precision_has_a_recording_of_its_own() -> None:
    net, record, asked = Network().eval(), Noted(), windows(1)
    replays = Replays(record)
    for _ in range(4):
        assert replays(net, asked).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            assert replays(net, asked).dtype == torch.bfloat16
    assert len(record.shapes) == 2


def refused(network: Callable[[Tensor], Tensor], windows: Tensor) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def wrong(network: Callable[[Tensor], Tensor], windows: Tensor) -> Any:
    return lambda windows: network(windows) + 1


def frozen(network: Callable[[Tensor], Tensor], windows: Tensor) -> Any:
    logits = network(windows)
    return lambda _: logits


@pytest.mark.parametrize(
    ("record", "reason"), [(refused, "not permitted"), (wrong, "not close"), (frozen, "not close")]
)
@torch.inference_mode()
def test_a_network_that_cannot_be_recorded_is_called_as_usual(
    record: graphs.Record, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    net, replays = Network().eval(), Replays(record)
    for _ in range(4):
        asked = windows(1)
        assert torch.equal(replays(net, asked), net(asked))
    assert len(replays.notes) == 1 and reason in replays.notes[0] and reason in caplog.text


@torch.inference_mode()
def test_what_depends_on_values_is_not_replayed() -> None:
    class Branches(Network):
        def forward(self, windows: Tensor) -> Tensor:
            return super().forward(windows if windows.mean() > 0 else -windows)

    net, replays = Branches().eval(), Replays(recorded.record)
    for sign in (1, 1, 1, -1):
        asked = sign * windows(1).abs()
        assert torch.equal(replays(net, asked), net(asked))
    assert "not permitted" in replays.notes[0]


@torch.inference_mode()
def test_hooks_are_called_at_every_window() -> None:
    net, record, calls = Network().eval(), Noted(), []
    replays = Replays(record)
    hook = net.last.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(5):
        replays(net, windows(1))
    assert len(calls) == 5 and not record.shapes
    hook.remove()
    for _ in range(3):
        replays(net, windows(1))
    assert len(record.shapes) == 1


@torch.inference_mode()
def test_few_recordings_are_held_and_none_longer_than_the_network() -> None:
    net, record = Network().eval(), Noted()
    replays = Replays(record)
    for edge in range(4, 12):
        for _ in range(3):
            replays(net, torch.zeros(1, 1, edge, 8, 8))
    assert len(record.shapes) == 8 and len(replays.recorded) == 4
    replayed(net, [])
    held = weakref.ref(graphs._REPLAYS[net])
    release_recordings(net)
    assert held() is None
    replayed(net, [])
    held = weakref.ref(graphs._REPLAYS[net])
    del net
    gc.collect()
    assert held() is None


def test_an_inference_says_why_nothing_was_recorded_and_watches_replays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, net = torch.randn(1, 1, 24, 20, 28), Network()
    expected = StreamingWindowInferer((16, 16, 16))(image, net)
    for record, notes in ((recorded.record, 0), (refused, 1)):
        inferer = StreamingWindowInferer((16, 16, 16))
        done: list[int] = []
        inferer.watch = lambda report, done=done: done.append(report.forward_passes)  # type: ignore[misc]
        monkeypatch.setattr(graphs, "Replays", lambda record=record: Replays(record))
        # As on a GPU.
        monkeypatch.setattr(Execution, "records", lambda self, device: True)
        graphs._REPLAYS.pop(net, None)
        assert torch.equal(inferer(image, net), expected)
        assert len(inferer.report.fallbacks) == notes
        assert done == list(range(1, inferer.report.windows + 1))


@pytest.mark.parametrize("name", [*CASES, "segformer"])
@torch.inference_mode()
def test_replays_of_our_networks_follow_their_windows(name: str) -> None:
    """None decides by values, or keeps in Python what belongs to the windows."""
    if name == "segformer":
        torch.manual_seed(0)
        net, size = SegFormer3D(1, 3, depths=(1, 1, 1, 1), head="detail", decoder_dim=32).eval(), (32, 32, 32)
    else:
        net, size = built(name), CASES[name][1]
    with as_on_device():
        first, second = (image_of(name, size) for _ in range(2))
        replay = recorded.record(net, first)
        second[:, 0] = second[:, 0].flip(-1).square()
        expected = net(second)
        assert (replay(second) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_recording_is_made_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what `record_launches` asks of CUDA, by stand-ins."""
    events: list[str] = []

    def stream(name: str) -> SimpleNamespace:
        return SimpleNamespace(
            wait_stream=lambda other: events.append(f"{name} waits for {other.name}"), name=name
        )

    aside, main = stream("aside"), stream("main")

    @contextmanager
    def entered(what: Any, **options: Any) -> Any:
        name = f"capture {options['capture_error_mode']}" if options else what.name
        events.append(f"enter {name}")
        if not options:
            yield
            return
        with what:
            yield

    for name, value in {
        "Stream": lambda device: aside, "current_stream": lambda device: main, "stream": entered,
        "CUDAGraph": recorded.Graph, "graph": entered,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    net = Network().eval()
    with torch.inference_mode():
        replay = record_launches(net, windows(1))
        asked = windows(1)
        assert torch.equal(replay(asked), net(asked))
    assert events == [
        "aside waits for main", "enter aside", "main waits for aside", "enter capture thread_local",
    ]  # fmt: skip
