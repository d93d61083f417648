"""A step that is not finite in half precision is taken in float32, and the host is asked once a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medvit.losses import LateralDiceCELoss, SparseDiceCELoss
from medvit.networks import LateralSegmenter, SegFormer3D
from medvit.synthesis import HeadBank, SynthesisSettings, Synthesizer, brain_anatomy, read_head_map
from medvit.synthesis.draw import Draw
from medvit.training import gradients
from medvit.training.gradients import clipped_gradients
from medvit.training.steps import MixedPrecisionStep
from medvit.training.synthetic import HeadTraining
from tests.phantoms import write_head

SMALL: dict[str, Any] = {
    "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1), "decoder_dim": 8,
    "patch_kernel_size": (3, 3, 3, 3), "patch_stride": (2, 2, 2, 2), "patch_padding": (1, 1, 1, 1),
    "head": "detail", "norm": "group",
}  # fmt: skip


class Poor(nn.Module):
    """Its middle layer gives a gradient that is not finite in half precision, or always."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.always = always
        self.first, self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor, half: bool) -> Tensor:
        x = self.middle(self.first(x))
        if half or self.always:
            x = x + (x.detach() * 0).requires_grad_() * 0
            x.register_hook(lambda gradient: gradient * math.nan)
        return self.last(x)


def loss_of(network: Poor, x: Tensor) -> Callable[[bool], Tensor]:
    return lambda half: network(x, half).square().mean()


def test_a_gradient_that_is_not_finite_is_computed_in_float32() -> None:
    network, x = Poor(), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    exact = clipped_gradients(network, loss_of(network, x), 0.1, half=False)
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    assert exact.finite and exact.norm > 0.1 and not exact.causes
    found = clipped_gradients(network, loss_of(network, x), 0.1, half=True)
    assert found == gradients.Gradients(exact.loss, exact.norm, found.causes)
    # The last layer is sound; the first that is not comes next to it.
    assert found.causes == ("middle.bias", "middle.weight", "first.bias")
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, gradient)


def test_one_that_is_not_finite_at_all_says_so() -> None:
    network, x = Poor(always=True), torch.randn(6, 4)
    found = clipped_gradients(network, loss_of(network, x), 0.1, half=True)
    assert not found.finite and len(found.causes) == 3
    assert not clipped_gradients(network, loss_of(network, x), 0.1, half=False).causes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each question asked for; any other on torch's device without memory is an error."""
    counts: list[int] = []

    def read_back(*values: Tensor) -> list[float]:
        assert all(value.device.type == "meta" and value.numel() == 1 for value in values)
        counts.append(len(values))
        return [1.0] * len(values)

    monkeypatch.setattr(gradients, "read_back", read_back)
    return counts


def test_a_step_on_synthetic_heads_asks_the_device_once(
    asked: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Synthesis, loss, clipping, optimiser and moving average included."""

    def draw(self: Draw, generator: torch.Generator, count: int, device: torch.device) -> None:
        self.count, self.device, self._host = count, device, generator
        self._noise = None  # type: ignore[assignment]  # there is no generator for a device without memory

    monkeypatch.setattr(Draw, "__init__", draw)
    write_head(tmp_path / "head.nii.gz")
    anatomy = brain_anatomy()
    heads = HeadBank([read_head_map(tmp_path / "head.nii.gz", anatomy).to("meta")])
    synthesizer = Synthesizer(anatomy, SynthesisSettings(shape=(32, 32, 32), spacing=1.0))
    network = LateralSegmenter(SegFormer3D(1, 19, **SMALL), "brain").to("meta")
    training = HeadTraining(network, synthesizer, heads, batch_size=4, learning_rate=1e-3, seed=0)
    for step in range(4):
        training.step(step / 4)
    assert asked == [2] * 4
    assert int(training.averaged.n_averaged) == 4


def test_a_step_of_a_bundle_asks_the_device_once(asked: list[int]) -> None:
    """With the optimiser and the moving average of ``train.json``."""
    network = SegFormer3D(1, 3, **SMALL).to("meta")
    optimizer = torch.optim.AdamW(network.parameters())
    step = MixedPrecisionStep(enabled=False)
    batch = {name: torch.empty(2, 1, 32, 32, 32, device="meta") for name in ("image", "label")}
    parts = {
        "network": network, "optimizer": optimizer, "loss_function": SparseDiceCELoss(),
        "inferer": lambda image, network: network(image),
        "state": SimpleNamespace(device=torch.device("meta"), iteration=1),
    }  # fmt: skip
    engine = Engine(lambda *_: step(SimpleNamespace(**parts), batch))  # type: ignore[arg-type]
    EMAHandler(network).attach(engine, event=Events.ITERATION_COMPLETED)
    engine.run([0] * 4)
    assert asked == [2] * 4


@pytest.mark.parametrize("loss", [SparseDiceCELoss(), LateralDiceCELoss("brain")])
def test_losses_are_computed_in_float32_under_autocast(loss: nn.Module) -> None:
    classes = 20 if isinstance(loss, LateralDiceCELoss) else 5
    logits = torch.randn(2, classes, 6, 6, 6, generator=torch.Generator().manual_seed(0)) * 8
    target = torch.randint(0, 5, (2, 1, 6, 6, 6), generator=torch.Generator().manual_seed(1))
    low = logits.bfloat16()
    exact = loss(low.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(low, target), exact)
