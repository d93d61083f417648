"""The linear recurrence against a loop, and its gradients against autograd's own."""

from __future__ import annotations

import pytest
import torch

from medvit.networks.layers.recurrence import linear_recurrence


def loop(factors: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    state, states = torch.zeros_like(inputs[0] * factors[0]), []
    for factor, x in zip(factors, inputs, strict=True):
        state = factor * state + x
        states.append(state)
    return torch.stack(states)


def test_by_hand() -> None:
    states = linear_recurrence(torch.tensor([9.0, 0.5, 2.0, -1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0]))
    assert states.tolist() == [1.0, 1.5, 4.0, -3.0]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 33])
@pytest.mark.parametrize(("factor", "x"), [((3,), (3,)), ((1,), (3,)), ((2, 1), (2, 3))])
def test_equals_the_loop_with_its_gradients(length: int, factor: tuple[int, ...], x: tuple[int, ...]) -> None:
    torch.manual_seed(length)
    ours = [torch.rand(length, *shape, dtype=torch.float64, requires_grad=True) for shape in (factor, x)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    states, expected = linear_recurrence(*ours), loop(*theirs)
    torch.testing.assert_close(states.expand_as(expected), expected)
    weights = torch.rand_like(expected)
    (states * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_strong_decay_stays_finite() -> None:
    states = linear_recurrence(torch.full((200,), 1e-30), torch.ones(200))
    assert torch.isfinite(states).all() and states[-1] == 1
