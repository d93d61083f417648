"""What the goldens of HAT, CRAFT, CATANet and DRSformer do not show: options, sizes, tables, training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.errors import MedvitError, WeightsError
from medvit.networks import CRAFT, HAT, CATANet, DRSformer
from medvit.networks.layers.super_resolution import window_offsets
from tests.networks.goldens import adapters, golden

LIGHT_HAT = {
    "embed_dim": 12, "depths": (2,), "num_heads": (2,), "window_size": 4, "compress_ratio": 3,
    "squeeze_factor": 3,
}  # fmt: skip
LIGHT_CATANET = {
    "dim": 8, "qk_dim": 4, "mlp_dim": 8, "num_heads": 2, "num_tokens": (4,), "group_size": (16,),
    "n_iters": (2,), "patch_sizes": (8,),
}  # fmt: skip
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "hat": lambda **more: HAT(**LIGHT_HAT, **more),
    "craft": lambda **more: CRAFT(embed_dim=32, depths=(1,), num_heads=(2,), rectangle=(2, 4), **more),
    "catanet": lambda **more: CATANet(**LIGHT_CATANET, **more),
    "drsformer": lambda **more: DRSformer(dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), **more),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_that_fit_no_window_keep_their_size_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    image = torch.rand(1, 1, 19, 22)
    output = network(image)
    factor = getattr(network, "upscale", 1)
    assert output.shape == (1, 1, 19 * factor, 22 * factor)
    output.square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The bias of the position network is the same for all offsets, which no softmax hears; under 64 channels
    # it is dead as a whole.
    assert [n for n in silent if ".pos." not in n] == []


@pytest.mark.parametrize("name", ["hat", "craft"])
def test_a_residual_network_that_knows_nothing_enlarges_bilinearly(name: str) -> None:
    network = NETWORKS[name](residual=True).eval()
    last = network.conv_last if name == "hat" else network.upsample[0]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    image = torch.rand(1, 1, 8, 12)
    torch.testing.assert_close(network(image), F.interpolate(image, scale_factor=2, mode="bilinear"))


@pytest.mark.parametrize("case", ["hat_small_grey_x2", "craft_small_grey_x2"])
def test_tables_of_a_published_file_are_checked_and_dropped(case: str) -> None:
    one = golden(case)
    adapter = adapters()[one.key]
    network, state = adapter.build(one), one.state()
    if case.startswith("hat"):
        table, name = window_offsets(8, 12, torch.device("cpu"), wrapped=False), "relative_position_index_OCA"
        assert table.shape == tuple(one.manifest["own_buffers"][name]) and table.min() < 0
    else:
        layer = network.layers[0].residual_group.srwa_blocks[0].attns[0]
        table, name = layer.offsets, "biases_v"
        assert table.shape == tuple(one.manifest["own_buffers"][name])
    assert network.load_published(state | {name: table}).ignored == (name,)
    with pytest.raises(WeightsError, match=name):
        network.load_published(state | {name: table + 1})


def test_the_wrapped_and_the_published_index_name_the_same_rows() -> None:
    own, theirs = (window_offsets(4, 6, torch.device("cpu"), wrapped=wrapped) for wrapped in (True, False))
    assert theirs.min() < 0 <= own.min()
    table = torch.arange(81)
    torch.testing.assert_close(table[own], table[theirs])


def test_a_mask_keeps_opposite_borders_apart() -> None:
    def reach(masked: bool) -> Tensor:
        torch.manual_seed(0)
        network = CRAFT(embed_dim=32, depths=(1,), num_heads=(2,), rectangle=(2, 4), mask_shifted=masked)
        attention = network.layers[0].residual_group.srwa_blocks[1].attns[0]
        qkv = torch.zeros(1, 8, 8, 48)
        moved = qkv.clone()
        moved[0, 0, 0, 32:] = 1  # the values of the first pixel
        return (attention(moved, True) - attention(qkv, True))[0, -1].abs().sum()

    assert reach(masked=False) > 1e-4
    assert reach(masked=True) < 1e-30  # a score of -100 leaves a weight of e^-100


def test_mended_seams_average_what_the_published_ones_darken() -> None:
    def unit(mend: bool) -> Tensor:
        network = CATANet(**LIGHT_CATANET, mend_seams=mend)
        refine = network.blocks[0][1]
        for parameter in refine.parameters():
            nn.init.zeros_(parameter)
        return refine(torch.ones(1, 15, 20, 8)).detach()  # (15 - 8) % 6 == 1: three patches meet

    assert unit(mend=False).min() == pytest.approx(0.75)
    torch.testing.assert_close(unit(mend=True), torch.ones(1, 15, 20, 8))


def test_centres_move_while_training_alone() -> None:
    torch.manual_seed(0)
    network = CATANet(**LIGHT_CATANET)
    tokens = network.blocks[0][0]
    image = torch.rand(2, 1, 16, 16)
    network.eval()(image)
    assert not tokens.initted
    network.train()(image)
    first = tokens.means.clone()
    assert tokens.initted and torch.allclose(first.norm(dim=1), torch.ones(4), atol=1e-5)
    network(image)
    assert 0 < (tokens.means - first).norm() < 0.01
    fixed = tokens.means.clone()
    network.eval()(image)
    assert torch.equal(tokens.means, fixed)


def test_images_under_the_patch_are_mirrored_up_to_it() -> None:
    network = CATANet(**{**LIGHT_CATANET, "patch_sizes": (16,)}).eval()
    assert network(torch.rand(1, 1, 10, 30)).isfinite().all()


def test_the_largest_scores_alone_count() -> None:
    torch.manual_seed(0)
    attention = DRSformer(dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)).encoder_level1[0].attn
    image = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        for name in ("attn2", "attn3", "attn4"):
            getattr(attention, name).zero_()
        got = attention(image)
        query, key, value = attention.qkv_dwconv(attention.qkv(image)).flatten(2).chunk(3, dim=1)
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
        kept = scores >= scores.sort(dim=-1).values[..., -4:][..., :1]
        weights = scores.masked_fill(~kept, -torch.inf).softmax(-1) * 0.2
        wanted = attention.project_out((weights @ value).reshape(image.shape))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HAT(upscale=5), "1, 3 or a power of two"),
        (lambda: HAT(window_size=6, overlap_ratio=0.5), "must be even"),
        (lambda: CRAFT(num_heads=(3,), depths=(1,)), "even"),
        (lambda: CATANet(upscale=5), "1, 2, 3 or 4"),
        (lambda: DRSformer(dim=4, num_heads=(4, 2, 4, 8)), "2 channels"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_an_image_too_small_to_be_mirrored_is_refused() -> None:
    with pytest.raises(MedvitError, match="too small"):
        HAT(**LIGHT_HAT | {"window_size": 16})(torch.rand(1, 1, 5, 40))
