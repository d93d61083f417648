"""The selective scan: the goldens, the gradients, every form against a plain loop over the tokens."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.networks.layers import scan as module
from medvit.networks.layers.scan import selective_scan
from tests.networks.goldens import Golden, collect

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
GOLDENS = [golden for golden in collect() if golden.manifest["kind"] == "scan"]


def make_arguments(length: int, decay: float, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Batch 2, 3 channels, 4 states; `decay` scales the rates."""
    noise = torch.Generator().manual_seed(length)
    shapes = {"u": (2, 3, length), "delta": (2, 3, length), "A": (3, 4), "B": (2, 4, length)}
    shapes |= {"C": (2, 4, length), "D": (3,), "z": (2, 3, length), "delta_bias": (3,)}
    tensors = {name: torch.randn(shape, generator=noise, dtype=dtype) for name, shape in shapes.items()}
    tensors["A"] = -decay * tensors["A"].exp()
    return tensors


def loop(u, delta, A, B, C, D, z, delta_bias) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    step = torch.nn.functional.softplus(delta + delta_bias[:, None])
    state, outputs = torch.zeros_like(A).expand(u.shape[0], -1, -1), []
    for t in range(u.shape[2]):
        drive = (step * u)[:, :, t, None] * B[:, None, :, t]
        state = torch.exp(step[:, :, t, None] * A) * state + drive
        outputs.append((state * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
    return torch.stack(outputs, 2) * torch.nn.functional.silu(z), state


def run(arguments: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    y, state = selective_scan(**arguments, delta_softplus=True, return_last_state=True)
    return y, state


@pytest.fixture(params=["blocks", "doubling"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(module, "_recording", lambda: request.param == "doubling")
    return request.param


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: g.manifest["case"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
def test_equals_the_goldens(golden: Golden, dtype: torch.dtype, tolerance: float, form: str) -> None:
    y, state = run({name: torch.from_numpy(golden.arrays[f"input:{name}"]).to(dtype) for name in NAMES})
    for ours, name in ((y, "y"), (state, "last_state")):
        theirs = torch.from_numpy(golden.arrays[f"output:{name}"])
        assert ours.dtype == dtype
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize("decay", [1e-3, 1.0, 50.0])
def test_equals_the_loop_forwards_and_backwards(length: int, decay: float, form: str) -> None:
    arguments = make_arguments(length, decay)
    weight = torch.randn(2, 3, length, dtype=torch.float64)
    results = []
    for scan in (run, lambda tensors: loop(**tensors)):
        leaves = {name: value.clone().requires_grad_() for name, value in arguments.items()}
        y, state = scan(leaves)
        ((y * weight).sum() + state.square().sum()).backward()
        results.append([y.detach(), state.detach(), *(leaf.grad for leaf in leaves.values())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("step", [0.01, 200.0])
def test_float32_stays_finite_where_decay_is_weak_or_total(step: float, form: str) -> None:
    arguments = make_arguments(400, 16.0, torch.float32)
    arguments["delta_bias"] += step
    leaves = {name: value.requires_grad_() for name, value in arguments.items()}
    y, _ = run(leaves)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values() if leaf.grad is not None)


def test_half_precision_is_summed_in_float32() -> None:
    arguments = make_arguments(200, 1.0, torch.float32)
    expected = run(arguments)[0]
    arguments["u"] = arguments["u"].bfloat16()
    rounded = run(arguments)[0]
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - expected).abs().max() < 0.03 * expected.abs().max()


def test_takes_what_monai_loads() -> None:
    arguments = make_arguments(40, 1.0)
    loaded = {name: value if name == "A" else MetaTensor(value) for name, value in arguments.items()}
    assert type(run(loaded)[0]) is Tensor
    assert torch.equal(run(loaded)[0], run(arguments)[0])


def test_autocast_does_not_reach_the_sums() -> None:
    arguments = make_arguments(200, 1.0, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(arguments)[0]
    assert torch.equal(inside, run(arguments)[0])


def test_a_traced_graph_gives_the_eager_numbers() -> None:
    arguments = {k: v for k, v in make_arguments(50, 1.0).items() if k in ("u", "delta", "A", "B", "C")}
    with torch.no_grad():
        traced = torch.jit.trace(selective_scan, tuple(arguments.values()))
        fresh = [1.1 * value for value in arguments.values()]
        torch.testing.assert_close(traced(*fresh), selective_scan(*fresh))


@pytest.fixture
def kernel_package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for mamba_ssm, found by import."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setattr(module, "_kernel", module._kernel.__wrapped__)
    return interface


def test_a_working_kernel_is_taken(kernel_package: types.ModuleType) -> None:
    kernel_package.selective_scan_fn = selective_scan  # type: ignore[attr-defined]
    assert module._kernel(torch.device("cpu")) is selective_scan


def test_an_installed_kernel_that_does_not_run_is_left_with_a_warning(
    kernel_package: types.ModuleType,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("selective_scan_cuda is not installed")

    kernel_package.selective_scan_fn = broken  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="selective_scan_cuda is not installed"):
        assert module._kernel(torch.device("cpu")) is None
