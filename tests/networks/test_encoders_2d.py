"""What the goldens of PVT v2, UniFormer and DuoFormer do not show: sizes, regions, options, learning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import DuoFormer, PVTv2, UniFormer

SMALL_PVT = {
    "num_classes": 3,
    "embed_dims": (8, 8, 16, 16),
    "num_heads": (1, 1, 2, 2),
    "mlp_ratios": (2,) * 4,
}
SMALL_UNIFORMER = {"num_classes": 3, "embed_dims": (8, 8, 16, 16), "depths": (1,) * 4, "head_dim": 8}
SMALL_DUO = {"backbone": "r18", "embed_dim": 8, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize("linear", [False, True])
def test_a_pyramid_of_any_size_and_every_parameter_learns(linear: bool) -> None:
    torch.manual_seed(0)
    network = PVTv2(1, linear=linear, **SMALL_PVT)
    maps, logits = network(torch.rand(1, 1, 70, 90))
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 18, 23), (8, 9, 12), (16, 5, 6), (16, 3, 3)]
    (logits.square().sum() + sum(x.square().sum() for x in maps)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_linear_pyramid_has_as_many_keys_at_any_size() -> None:
    seen = []
    network = PVTv2(1, linear=True, **SMALL_PVT).eval()
    network.block1[0].attn.kv.register_forward_hook(lambda layer, x, y: seen.append(y.shape[1:3].numel()))
    for side in (64, 128):
        network(torch.rand(1, 1, side, side))
    assert seen == [49, 49]


@pytest.mark.parametrize("stem", [False, True])
def test_uniformer_gives_maps_of_any_size(stem: bool) -> None:
    network = UniFormer(1, conv_stem=stem, layer_scale=True, **SMALL_UNIFORMER).eval()
    maps, logits = network(torch.rand(1, 1, 64, 96))
    assert [tuple(x.shape[2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert logits.shape == (1, 3)


@pytest.mark.parametrize(("side", "scales"), [(64, 2), (96, 4)])
def test_duoformer_takes_other_tiles_and_numbers_of_scales(side: int, scales: int) -> None:
    network = DuoFormer(3, 2, num_scales=scales, **SMALL_DUO).eval()
    assert network(torch.rand(1, 3, side, side)).shape == (1, 2)
    with pytest.raises(ValueError, match="num_scales"):
        DuoFormer(num_scales=5, **SMALL_DUO)


def test_each_region_gathers_its_own_part_of_every_stage() -> None:
    network = DuoFormer(3, 2, num_scales=3, **SMALL_DUO).eval()
    maps = [torch.zeros(1, 64 * 2**s, 8 * 4 // 2**s, 8 * 4 // 2**s) for s in range(4)]
    moved = [x.clone() for x in maps]
    moved[1][0, :, 5, 10] = 1  # stage 2 has regions of 4 x 4: row 1, column 2, inside (1, 2)
    moved[2][0, :, 3, 4] = 1  # stage 3 has regions of 2 x 2: row 1, column 2, inside (1, 0)

    def changed(scale: int) -> list[list[int]]:
        before, after = (network._scales(x)[scale] for x in (maps, moved))
        difference: Tensor = (after - before).abs().sum(-1)[0]
        return difference.nonzero().tolist()

    region = 1 * 4 + 2
    assert changed(2) == [[region, 1 * 4 + 2]]  # by rows
    assert changed(1) == [[region, 1]]  # by columns: (0, 0), (1, 0), (0, 1), (1, 1)


def test_a_pickled_model_is_refused(tmp_path) -> None:
    torch.save({"model": DuoFormer(3, 2, num_scales=2, **SMALL_DUO)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="does not open pickled objects"):
        DuoFormer(3, 2, num_scales=2, **SMALL_DUO).load_published(tmp_path / "model.pt")
