"""Every network computes what its authors' code computes, on every golden at hand."""

from __future__ import annotations

import pytest
import torch

from medvit.networks.layers.forms import as_on_device
from tests.networks.goldens import (
    Golden,
    adapters,
    collect,
    disagreement,
    named,
    run,
    tolerance,
    value_disagreement,
)
from tests.networks.parity_rule import make_input

ADAPTERS = adapters()
# Goldens that start from weights of another layout (``npz``) have a test of their own.
GOLDENS = [
    g
    for g in collect()
    if g.manifest["kind"] in ("network", "unit") and g.key in ADAPTERS and "npz" not in g.manifest
]
WHOLE = [g for g in GOLDENS if g.manifest["kind"] == "network"]
# To fill and run more weights takes seconds, and with a smaller golden of the same network tells little more.
SLOW_PARAMETERS = 3e7
# Of a loss or another scalar, in units of its own size.
VALUE_TOLERANCE = 1e-5


# Networks that take another form on a device than on a CPU.
TWO_FORMS = ("swin_unetr", "rat", "d_former", "mambaclinix", "xlstm_unet")


def small(golden: Golden) -> bool:
    """Whether a golden runs in a second or two."""
    return golden.manifest.get("parameters", 0) < 2e7


def slow(golden: Golden) -> bool:
    """Whether a golden is large, and a smaller one of the same network is run as well."""
    network, weights = golden.manifest["network"], golden.manifest.get("parameters", 0)
    least = min(g.manifest.get("parameters", 0) for g in WHOLE if g.manifest["network"] == network)
    return weights > max(SLOW_PARAMETERS, least)


def cases(goldens: list[Golden]) -> list:
    """Test parameters, the slow ones marked."""
    return [
        pytest.param(g, id=g.manifest["case"], marks=[pytest.mark.slow] if slow(g) else []) for g in goldens
    ]


@pytest.mark.parametrize("golden", cases(GOLDENS))
def test_equals_the_authors_code(golden: Golden) -> None:
    ours = run(ADAPTERS[golden.key], golden)
    for name, spec in golden.manifest["outputs"].items():
        assert list(ours[name].shape) == spec["shape"]
        stored = golden.arrays[f"output:{name}"]
        assert disagreement(golden, name, ours[name], stored, spec["stride"]) <= tolerance(golden, name)
    assert value_disagreement(golden, ours) <= VALUE_TOLERANCE


@pytest.mark.parametrize("golden", cases([g for g in GOLDENS if "calibrated" in g.manifest]))
def test_equals_the_authors_code_with_calibrated_norms(golden: Golden) -> None:
    """With statistics of its own activations, blocks that the plain fill leaves nearly silent are heard."""
    ours = run(ADAPTERS[golden.key], golden, calibrated=True)["0"]
    stored = golden.arrays["calibrated:0"]
    stride = -(-ours.numel() // stored.size)
    assert disagreement(golden, "0", ours, stored, stride) <= tolerance(golden, "0")


@pytest.mark.parametrize(
    "golden", cases([g for g in GOLDENS if g.manifest["network"] in TWO_FORMS and small(g)])
)
def test_the_form_for_devices_equals_the_authors_code(golden: Golden) -> None:
    with as_on_device():
        ours = run(ADAPTERS[golden.key], golden)
    for name, spec in golden.manifest["outputs"].items():
        stored = golden.arrays[f"output:{name}"]
        assert disagreement(golden, name, ours[name], stored, spec["stride"]) <= tolerance(golden, name)


@pytest.mark.parametrize("golden", cases([g for g in GOLDENS if g.manifest["case"].endswith("_small")]))
def test_a_broken_entry_is_noticed(golden: Golden) -> None:
    """A comparison that passes with a block broken proves nothing: disturb an early matrix, see it fail."""
    adapter, calibrated = ADAPTERS[golden.key], "calibrated" in golden.manifest
    state = golden.state(calibrated)
    name = next(n for n, v in state.items() if v.ndim >= 2 and n.endswith("weight"))
    # Noise, since a factor would be undone where the kernel is standardised.
    state[name] += 0.2 * state[name].std() * make_input(f"{name}:noise", tuple(state[name].shape))
    network = adapter.build(golden).to(golden.dtype).eval()
    adapter.load(network, state)
    with torch.no_grad():
        first = named(adapter.call(network, golden.inputs()))["0"]
    stored = golden.arrays["calibrated:0" if calibrated else "output:0"]
    stride = golden.manifest["outputs"]["0"]["stride"]
    assert disagreement(golden, "0", first, stored, stride) > 10 * tolerance(golden, "0")
