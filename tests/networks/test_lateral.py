"""Left and right from structures and a side: values by hand, the exported form, another network inside."""

from __future__ import annotations

import math

import torch
from torch import nn

from medvit.networks import LateralSegmenter
from medvit.studies.labels import load_label_table


class _Given(nn.Module):
    """Answers with the same channels whatever it sees."""

    def __init__(self, channels: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("channels", channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.channels * image.mean().sign()


def _made() -> tuple[LateralSegmenter, torch.Tensor]:
    structures = load_label_table("brain").structures
    unsided = list(dict.fromkeys(s.unsided_name for s in structures))
    channels = torch.arange(len(unsided) + 2.0).view(1, -1, 1, 1, 1) * torch.ones(1, 1, 2, 2, 2)
    # Side 0 is even between left and right; 3 leans to the right, far from zero is certain.
    channels[:, -1] = torch.tensor([0.0, 3.0, -3.0, 200.0, -200.0, 0.0, 1.0, -1.0]).view(1, 2, 2, 2)
    return LateralSegmenter(_Given(channels), "brain"), channels


def test_a_side_adds_the_logarithm_of_its_probability() -> None:
    network, _ = _made()
    logits = network(torch.ones(1, 1, 2, 2, 2))
    structures = load_label_table("brain").structures
    assert logits.shape == (1, 1 + len(structures), 2, 2, 2)
    names = list(dict.fromkeys(s.unsided_name for s in structures))
    for value, structure in enumerate(structures, start=1):
        own = 1.0 + names.index(structure.unsided_name)
        sign = {"left": -1, "right": 1, "": 0}[structure.side]
        even = math.log(0.5) if sign else 0.0
        leaning = math.log(1 / (1 + math.exp(-3 * sign))) if sign else 0.0
        expected = torch.tensor([own + even, own + leaning])
        torch.testing.assert_close(logits[0, value, 0, 0], expected, rtol=1e-6, atol=1e-6)
    assert logits.isfinite().all()


def test_the_exported_form_gives_the_same_logits() -> None:
    network, _ = _made()
    image = torch.ones(1, 1, 2, 2, 2)
    program = torch.export.export(network, (image,), strict=False)
    assert torch.equal(program.module()(image), network(image))
    # One addition over all classes, not one for each structure that has a side.
    added = [node for node in program.graph.nodes if "add" in str(node.target)]
    assert len(added) == 1


def test_another_network_inside_keeps_structures_and_sides() -> None:
    network, channels = _made()
    image = torch.ones(1, 1, 2, 2, 2)
    other = network.around(_Given(2 * channels))
    assert isinstance(network.network, _Given) and torch.equal(network.network.channels, channels)
    background = other(image)[:, 0]
    assert torch.equal(background, torch.zeros_like(background))
    assert not torch.equal(other(image), network(image))
    assert torch.equal(other.around(network.network)(image), network(image))
