"""What a training starts from: bundles and networks by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.training import Base, find_base
from medvit.training.architectures import NETWORKS, SIZES, definition_of, network_named
from medvit.training.network import build, fitted
from medvit.training.windows import refusal
from tests.label.phantoms import make_bundle


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_can_be_trained_by_name_in_three_sizes(network: str) -> None:
    definitions, sizes = [definition_of(network, size) for size in SIZES], []
    assert len({str(definition) for definition in definitions}) == 3
    for size in ("tiny", "small"):
        base = Base.of_network(network, size)
        window = (64, 64) if base.slicewise else (64, 64, 64)
        assert refusal(base.network, window) == "", size
        built = build(fitted(base.network, 1, 3, window))
        sizes.append(sum(p.numel() for p in built.parameters()))
    assert sizes[0] < sizes[1]


def test_names_are_taken_in_any_spelling() -> None:
    assert network_named("swin-unetr") == network_named("SWINUNETR") == "SwinUNETR"
    assert network_named("segformer3d_brain") is None
    assert find_base("d-former", size="tiny").network["network"]["embed_dim"] == 24
    with pytest.raises(MedvitError, match="--size must be one of tiny, small, base, not 'huge'"):
        find_base("DFormer", size="huge")
    with pytest.raises(MedvitError, match="there is no network 'UNet'"):
        definition_of("UNet")
    with pytest.raises(MedvitError, match=r"no bundle or network 'unet'.*can be trained: SegFormer3D"):
        find_base("unet")
    with pytest.raises(MedvitError, match="HAT denoises slices"):
        find_base("HAT")


def test_a_bundle_lends_its_weights_unless_training_starts_from_scratch(tmp_path: Path) -> None:
    root = make_bundle(tmp_path / "base")
    assert find_base(str(root), trust=True).weights_of == Bundle(root)
    assert find_base(str(root), from_scratch=True, trust=True).weights_of is None
    with pytest.raises(MedvitError, match="--size is for a network by name"):
        find_base(str(root), size="tiny", trust=True)
