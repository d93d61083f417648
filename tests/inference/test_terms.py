"""Logits whose terms are blended in their place."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medvit.inference import Execution, Flips, StreamingWindowInferer
from medvit.inference.terms import Terms
from medvit.networks import LateralSegmenter
from tests.inference.cases import GRIDS, study

CLASSES = ((2,), (3, 0), (3, 1), (4,), (5, 1), (5, 0))


class Plain(nn.Module):
    """A network whose terms nobody sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        return self.network(windows)


def segmenter() -> LateralSegmenter:
    torch.manual_seed(0)
    return LateralSegmenter(nn.Conv3d(1, 19, 3, padding=1), "brain").eval()


def test_logits_are_the_sums_of_their_terms() -> None:
    terms = torch.randn(6, 2, 3)
    logits = Terms(CLASSES).logits(terms)
    expected = torch.stack([terms[list(those)].sum(0) for those in CLASSES])
    assert torch.equal(logits, expected)
    network, image = segmenter(), torch.randn(1, 1, 4, 4, 4)
    with torch.no_grad():
        found = Terms(network.class_terms).logits(network.terms(image)[0])
        assert torch.allclose(found, network(image)[0], atol=1e-6)
    assert len(network.terms(image)[0]) < len(found)


def test_a_term_is_held_no_longer_than_it_is_needed() -> None:
    made: list[weakref.ref[Tensor]] = []

    def maps() -> object:
        for number in range(6):
            value = torch.full((2,), float(number))
            made.append(weakref.ref(value))
            yield value

    for number, _ in enumerate(Terms(CLASSES).in_turn(maps())):
        gc.collect()
        if number == 3:
            assert made[2]() is None and made[3]() is None
            assert made[0]() is not None and made[1]() is not None


def test_background_is_split_into_terms_that_give_it_back() -> None:
    background = torch.tensor([10.0, -10, -10, -10, -10, -10])
    terms = Terms(CLASSES)
    assert torch.equal(terms.logits(terms.split(background)), background)


def test_only_an_ensemble_of_one_mind_is_asked_for_terms() -> None:
    other = Plain(segmenter())
    assert Terms.shared([segmenter(), segmenter()]) == Terms(segmenter().class_terms)
    assert Terms.shared([segmenter(), other]) is None
    assert Terms.shared([other]) is None


@pytest.mark.parametrize("grid", ["axial", "anisotropic", "oblique"])
@pytest.mark.parametrize("block_bytes", [None, 1 << 27])
def test_blended_terms_give_the_labels_and_maps_of_blended_logits(grid: str, block_bytes: int | None) -> None:
    network = segmenter()
    image, target = study(GRIDS["axial"]), GRIDS[grid]

    def empty(window: Tensor) -> Tensor:
        return window.mean() < 0.6

    inferer = StreamingWindowInferer(
        (16, 16, 16), 0.25, maps=("entropy",), skip=empty, execution=Execution(block_bytes=block_bytes)
    )
    found = inferer.infer(image, network, target)
    skipped = inferer.report.skipped
    expected = inferer.infer(image, Plain(network), target)
    assert (found.labels != expected.labels).mean() < 1e-4
    assert len(np.unique(found.labels)) > 4
    assert np.allclose(found.maps["entropy"], expected.maps["entropy"], atol=1e-5)
    assert skipped == inferer.report.skipped > 0


@pytest.mark.parametrize("options", [{"flips": Flips(axes=(0,))}, {"maps": ("disagreement",)}])
def test_where_logits_are_needed_terms_are_not_asked_for(options: dict) -> None:
    network = segmenter()
    network.terms = None  # type: ignore[method-assign, assignment]
    inferer = StreamingWindowInferer((16, 16, 16), 0.25, **options)
    assert inferer.infer(torch.randn(1, 20, 16, 16), network).labels.shape == (20, 16, 16)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_a_network_are_called_with_its_logits(register: str) -> None:
    network, seen = segmenter(), []
    expected = StreamingWindowInferer((16, 16, 16))(torch.ones(1, 1, 16, 16, 16), network)
    hook = getattr(network, register)(lambda *given: seen.append(tuple(given[1][0].shape)))
    found = StreamingWindowInferer((16, 16, 16))(torch.ones(1, 1, 16, 16, 16), network)
    assert seen == [(1, 1, 16, 16, 16)] and torch.equal(found, expected)
    hook.remove()
    assert Terms.shared([network]) is not None
