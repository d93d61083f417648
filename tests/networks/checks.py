"""Checks that every network is put through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medvit.training.steps import SmallGridsInFloat32
from tests.networks.goldens import FLOAT64_TOLERANCE, Golden, disagreement


def trains(network: nn.Module, images: Sequence[Tensor], *, autocast: bool) -> None:
    """One step a batch, of different sizes in turn: every parameter has a finite gradient, and moves."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    for image in images:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), SmallGridsInFloat32():
            logits = network(image)
        logits.float().square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@torch.no_grad()
def hears(golden: Golden, network: nn.Module, name: str) -> None:
    """An entry whose say is small: were it wrong, the comparison with the golden would fail."""
    state = golden.state()
    state[name] = 1.2 * state[name]
    network.double().eval().load_published(state)
    logits = network.levels(golden.inputs()["x"])[0]
    stored, stride = golden.arrays["output:0"], golden.manifest["outputs"]["0"]["stride"]
    assert disagreement(golden, "0", logits, stored, stride) > 5 * FLOAT64_TOLERANCE


@torch.no_grad()
def traces_and_exports(network: nn.Module, image: Tensor) -> None:
    """`torch.jit.trace` and `torch.export` give what the network gives, on other images and more of them."""
    network.eval()
    other = torch.cat([image.flip(-1) + 0.5, image])
    expected = network(other)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.std())}
    traced = torch.jit.trace(network, image, check_trace=False)
    # Optimising the graph would take longer than running it once.
    with torch.jit.optimized_execution(False):
        torch.testing.assert_close(traced(other), expected, **close)
    batch = ({0: torch.export.Dim("batch", min=1, max=16)},)
    exported = torch.export.export(network, (image,), dynamic_shapes=batch).module()
    torch.testing.assert_close(exported(other), expected, **close)


@torch.no_grad()
def exports_to_onnx(network: nn.Module, image: Tensor, folder: Path) -> None:
    """ONNX's reference runtime gives what the network gives, on another image than that of the export."""
    from onnx.reference import ReferenceEvaluator

    network.eval()
    path = folder / "network.onnx"
    torch.onnx.export(network, (image,), path, dynamo=True)
    other = image.flip(-1) + 0.5
    session = ReferenceEvaluator(str(path))
    logits = torch.from_numpy(session.run(None, {session.input_names[0]: other.numpy()})[0])
    expected = network(other)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def published_autoencoder(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a masked autoencoder of images under its authors' names."""
    return {
        name.replace("entrances.0.proj", "patch_embed.proj")
        .replace("entrances.0.position", "pos_embed")
        .replace("entrances.0.decoder_position", "decoder_pos_embed")
        .replace("entrances.0.readout", "decoder_pred")
        .replace(".attention.", ".attn.")
        .replace(".mlp.0.", ".mlp.fc1.")
        .replace(".mlp.3.", ".mlp.fc2."): value
        for name, value in network.state_dict().items()
    }
