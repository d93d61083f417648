"""The focal region loss equals the authors' and stands still where theirs divides by zero."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.losses import CharbonnierLoss, FocalRegionLoss
from tests.networks.goldens import FOLDER
from tests.networks.parity_rule import make_input

CASES = sorted(FOLDER.glob("rat_loss*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_equals_the_authors_code(path: Path) -> None:
    manifest = json.loads(path.read_text())
    regions = torch.from_numpy(np.load(path.with_suffix(".npz"))["input:mask"])
    output, target = (
        make_input(f"{manifest['case']}:{name}", tuple(manifest["shape"])) for name in ("output", "target")
    )
    for beta, expected in manifest["values"]["focal_region"].items():
        given = output.clone().requires_grad_()
        loss = FocalRegionLoss(float(beta))(given, target, regions)
        loss.backward()
        assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)
        assert given.grad.abs().sum().item() == pytest.approx(expected["grad_abs_sum"], rel=1e-5)
        assert given.grad.sum().item() == pytest.approx(expected["grad_sum"], rel=1e-4)
    assert CharbonnierLoss(1e-3)(output, target).item() == pytest.approx(
        manifest["values"]["charbonnier_eps_1e-3"], rel=1e-6
    )


def test_block_means_tell_a_shift_from_noise() -> None:
    target = torch.zeros(2, 1, 40, 40)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    shift = torch.full_like(target, float(noise.abs().mean()))
    plain, blocks = CharbonnierLoss(0.0), CharbonnierLoss(0.0, blocks=(8, 16), block_weight=0.5)
    assert plain(shift, target).item() == pytest.approx(plain(noise, target).item())
    assert blocks(shift, target).item() == pytest.approx(2 * plain(shift, target).item())
    assert blocks(noise, target) < 1.3 * plain(noise, target)


def test_blocks_with_a_wide_bottom_count_what_is_far_off() -> None:
    target = torch.zeros(1, 1, 16, 16)
    spread, one = torch.full_like(target, 0.025), torch.zeros_like(target)
    one[..., :8, :8] = 0.1
    narrow, wide = (CharbonnierLoss(1e-3, blocks=(8,), block_eps=eps) for eps in (None, 0.1))
    assert narrow(one, target).item() == pytest.approx(narrow(spread, target).item(), rel=0.04)
    # One block of four that is four times as far off adds four times as much as all do together in squares.
    assert wide(one, target) - wide(spread, target) > 4 * (narrow(one, target) - narrow(spread, target))


def test_edges_count_what_moves_within_a_pixel_or_two() -> None:
    target = torch.zeros(2, 2, 24, 24)
    flat, line = torch.full_like(target, 0.5), torch.zeros_like(target)
    line[..., 12] = 0.5 * 24
    plain, edges = CharbonnierLoss(0.0), CharbonnierLoss(0.0, edge_weight=1.0)
    assert plain(line, target).item() == pytest.approx(plain(flat, target).item())
    assert edges(flat, target).item() == pytest.approx(plain(flat, target).item(), rel=1e-4)
    assert edges(line, target) > 1.5 * plain(line, target)


def test_batch_mates_weigh_unless_told_otherwise() -> None:
    target, regions = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2, dtype=torch.long)
    output = torch.tensor([1.0, 4.0])[:, None, None, None].expand(2, 1, 2, 2)
    assert FocalRegionLoss(1.0)(output, target, regions).item() == pytest.approx((1 * 1.25 + 4 * 2) / 2)
    loaded = MetaTensor(regions.float())
    assert FocalRegionLoss(1.0)(MetaTensor(output), target, loaded).item() == pytest.approx((1.25 + 8) / 2)
    assert FocalRegionLoss(1.0, per_item=True)(output, target, regions).item() == pytest.approx((2 + 8) / 2)


def test_a_perfect_output_costs_nothing() -> None:
    output = torch.ones(1, 1, 4, 4, requires_grad=True)
    loss = FocalRegionLoss(1.0)(output, torch.ones(1, 1, 4, 4), torch.arange(16).reshape(1, 4, 4))
    loss.backward()
    assert loss.item() == 0 and output.grad.isfinite().all()


def test_refusals() -> None:
    image = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"region map must be \(2, 4, 4\), not \(2, 2, 2\)"):
        FocalRegionLoss()(image, image, torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="differ in shape"):
        FocalRegionLoss()(image, image[:, :, :2], torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="must not be negative"):
        FocalRegionLoss(-1)
