"""Every network computes what its authors' code computes, on every golden at hand."""

from __future__ import annotations

import pytest
import torch

from tests.networks.goldens import Golden, adapters, collect, disagreement, run, tolerance

ADAPTERS = adapters()
GOLDENS = [g for g in collect() if g.manifest["kind"] in ("network", "unit") and g.key in ADAPTERS]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: g.manifest["case"])
def test_equals_the_authors_code(golden: Golden) -> None:
    ours = run(ADAPTERS[golden.key], golden)
    for name, spec in golden.manifest["outputs"].items():
        assert list(ours[name].shape) == spec["shape"]
        stored = golden.arrays[f"output:{name}"]
        assert disagreement(golden, name, ours[name], stored, spec["stride"]) <= tolerance(golden, name)


@pytest.mark.parametrize(
    "golden", [g for g in GOLDENS if "calibrated" in g.manifest], ids=lambda g: g.manifest["case"]
)
def test_equals_the_authors_code_with_calibrated_norms(golden: Golden) -> None:
    """With statistics of its own activations, blocks that the plain fill leaves nearly silent are heard."""
    ours = run(ADAPTERS[golden.key], golden, calibrated=True)["0"]
    stored = golden.arrays["calibrated:0"]
    stride = -(-ours.numel() // stored.size)
    assert disagreement(golden, "0", ours, stored, stride) <= tolerance(golden, "0")


@pytest.mark.parametrize(
    "golden",
    [g for g in GOLDENS if g.manifest["case"].endswith("_small")],
    ids=lambda g: g.manifest["case"],
)
def test_a_broken_entry_is_noticed(golden: Golden) -> None:
    """A comparison that passes with a block broken proves nothing: scale one early matrix and see it fail."""
    adapter = ADAPTERS[golden.key]
    state = golden.state()
    name = next(n for n, v in state.items() if v.ndim >= 2 and v.numel() > 100)
    state[name] = 1.2 * state[name]
    network = adapter.build(golden).to(golden.dtype).eval()
    adapter.load(network, state)
    with torch.no_grad():
        output = adapter.call(network, golden.inputs())
    first = output if isinstance(output, torch.Tensor) else next(iter(output))
    spec = golden.manifest["outputs"]["0"]
    assert disagreement(golden, "0", first, golden.arrays["output:0"], spec["stride"]) > 10 * tolerance(
        golden, "0"
    )
