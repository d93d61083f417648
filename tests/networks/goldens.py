"""Goldens: manifests of what the authors' code computes, and the comparison with ours.

A golden is ``CASE.json`` and ``CASE.npz``; the folder is ``tests/goldens`` or what ``MEDVIT_GOLDENS`` names.
How a manifest's class and constructor arguments become one of our networks is said by an `Adapter`, one file
a network in ``tests/networks/adapters``.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.networks.parity_rule import fill_state, make_input

FOLDER = Path(os.environ.get("MEDVIT_GOLDENS", Path(__file__).parents[1] / "goldens"))

# Largest |ours - theirs| over the standard deviation of their output.
FLOAT64_TOLERANCE = 1e-5
FLOAT32_TOLERANCE = 5e-4


@dataclass(frozen=True)
class Golden:
    """One manifest and its arrays."""

    manifest: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def key(self) -> tuple[str, str]:
        """Network and class, which choose the adapter."""
        return self.manifest["network"], (self.manifest.get("source") or {}).get("class") or ""

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the authors' output was computed in."""
        return (
            torch.float64
            if str(self.manifest.get("computed_in", "")).startswith("float64")
            else torch.float32
        )

    def state(self, calibrated: bool = False) -> dict[str, Tensor]:
        """The published state dict, filled by the rule (and by stored statistics where calibrated)."""
        state = fill_state(self.manifest["state"])
        if calibrated:
            stored = {k.removeprefix("state:"): v for k, v in self.arrays.items() if k.startswith("state:")}
            state |= {name: torch.from_numpy(np.asarray(value)) for name, value in stored.items()}
        # Flags that a published file holds beside the weights; index tables are the network's own.
        fixed = self.manifest.get("fixed") or {}
        flags = {
            name: torch.tensor(fixed[name.rpartition(".")[2]])
            for name in self.manifest.get("own_buffers") or {}
            if name.rpartition(".")[2] in fixed
        }
        return {name: value.to(self.dtype) for name, value in state.items()} | flags

    def inputs(self) -> dict[str, Tensor]:
        """Argument name to tensor; floating inputs in `dtype`."""
        tensors = {}
        for name, spec in self.manifest["inputs"].items():
            if spec["stored"]:
                tensor = torch.from_numpy(self.arrays[f"input:{name}"])
            else:
                tensor = make_input(spec["seed_name"], tuple(spec["shape"]))
            tensors[name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return tensors


def default_call(network: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """Call `network` with its inputs in the manifest's order."""
    return network(*inputs.values())


@dataclass(frozen=True)
class Adapter:
    """How a manifest becomes one of our networks.

    Parameters
    ----------
    build
        Makes the network from the golden (its `manifest["config"]` holds the authors' constructor arguments).
    load
        Fills the network with the published state dict; it must refuse what does not fit.
    call
        Runs it; a tensor, a sequence or a mapping of output name to tensor.
    """

    build: Callable[[Golden], nn.Module]
    load: Callable[[nn.Module, dict[str, Tensor]], Any]
    call: Callable[[nn.Module, dict[str, Tensor]], Any] = field(default=default_call)


def collect() -> Iterator[Golden]:
    """All goldens of the folder, in order of name; the arrays are read when they are asked for."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.with_suffix(".npz").exists():
            yield Golden(json.loads(path.read_text()), np.load(path.with_suffix(".npz")))


def golden(case: str) -> Golden:
    """The golden of that name."""
    return Golden(json.loads((FOLDER / f"{case}.json").read_text()), np.load(FOLDER / f"{case}.npz"))


def adapters() -> dict[tuple[str, str], Adapter]:
    """All adapters, by network and class."""
    from tests.networks import adapters as package

    found: dict[tuple[str, str], Adapter] = {}
    for module in pkgutil.iter_modules(package.__path__):
        found |= importlib.import_module(f"{package.__name__}.{module.name}").ADAPTERS
    return found


def run(adapter: Adapter, golden: Golden, calibrated: bool = False) -> dict[str, Tensor]:
    """Our outputs for a golden, by output name."""
    network = adapter.build(golden).to(golden.dtype).eval()
    adapter.load(network, golden.state(calibrated))
    with torch.no_grad():
        return named(adapter.call(network, golden.inputs()))


def named(output: Any) -> dict[str, Tensor]:
    """What a network returned, by output name."""
    if isinstance(output, Tensor):
        return {"0": output}
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    return {str(i): value for i, value in enumerate(output)}


def disagreement(golden: Golden, name: str, ours: Tensor, stored: np.ndarray, stride: int) -> float:
    """Largest absolute difference between ours and theirs, in units of their standard deviation."""
    theirs = torch.from_numpy(stored).to(torch.float64).reshape(-1)
    picked = ours.detach().to(torch.float64).reshape(-1)[::stride]
    assert picked.shape == theirs.shape, f"output {name}: {tuple(ours.shape)} does not fit the golden"
    return float((picked - theirs).abs().max() / theirs.std())


def value_disagreement(golden: Golden, outputs: Mapping[str, Tensor]) -> float:
    """Largest difference between the scalars of a golden and ours, in units of their own size."""
    values: dict[str, float] = golden.manifest.get("values") or {}
    return max(
        (abs(float(outputs[name]) - value) / abs(value) for name, value in values.items()), default=0.0
    )


def tolerance(golden: Golden, name: str) -> float:
    """How far an output may be from the golden, in units of its standard deviation."""
    if golden.dtype == torch.float64:
        return FLOAT64_TOLERANCE
    noise = golden.manifest.get("float32_noise", {}).get(name)
    return FLOAT32_TOLERANCE if noise is None else 4 * noise
