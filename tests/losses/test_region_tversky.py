"""The region-specific Tversky loss: the authors' numbers, and the mask that theirs lacks."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from medvit.losses import MambaClinixLoss, RegionTverskyLoss
from tests.networks.goldens import FOLDER
from tests.networks.parity_rule import make_input

PATH = FOLDER / "mambaclinix_loss.json"
ROWS = json.loads(PATH.read_text())["rows"] if PATH.exists() else []
CLASSES = {"a": 3, "b": 4, "c": 2}


def golden_case(row: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The logits and labels of a row, by the manifest's rule."""
    batch, *space = row["shape"]
    shape = (batch, CLASSES[row["tag"]], *space)
    logits = 2 * make_input(f"mambaclinix_loss:{row['tag']}:logits", shape).double()
    labels = make_input(f"mambaclinix_loss:{row['tag']}:labels", shape).argmax(1, keepdim=True)
    return logits[:, : row["classes"]].clone().requires_grad_(), labels


def build(row: dict[str, Any]) -> torch.nn.Module:
    shared = {"include_background": row["do_bg"], "batch": row["batch_dice"]}
    if row["loss"] == "compound":
        return MambaClinixLoss(row["num_region_per_axis"], ignore_label=row["ignore_label"], **shared)
    return RegionTverskyLoss(row["num_region_per_axis"], alpha=row["alpha"], beta=row["beta"], **shared)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['loss']}-{r['tag']}-{r['value']:.4f}")
def test_equals_the_authors_numbers(row: dict[str, Any]) -> None:
    logits, labels = golden_case(row)
    loss = build(row)(logits, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(row["value"], rel=1e-9)
    assert logits.grad is not None
    assert float(logits.grad.norm()) == pytest.approx(row["grad_l2"], rel=1e-7)


def example(space: tuple[int, ...] = (8, 12, 10)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, *space), torch.randint(0, 3, (2, 1, *space))


@pytest.mark.parametrize("batch", [False, True])
def test_masked_voxels_have_no_say(batch: bool) -> None:
    logits, labels = example()
    mask = torch.rand(labels.shape) < 0.6
    mask[:, :, :4] = False
    loss = RegionTverskyLoss((2, 3, 2), batch=batch)
    expected = loss(logits, labels, mask)
    changed = logits + 5 * torch.randn_like(logits) * ~mask
    assert torch.equal(loss(changed, labels.where(mask, 2), mask), expected)
    assert not torch.isclose(loss(changed, labels), loss(logits, labels))


def test_a_region_that_is_ignored_is_left_out() -> None:
    """Half a volume, masked away, gives what the other half gives alone."""
    logits, labels = example()
    mask = torch.ones_like(labels)
    mask[:, :, 4:] = 0
    whole = RegionTverskyLoss((4, 3, 2))(logits, labels, mask)
    half = RegionTverskyLoss((2, 3, 2))(logits[:, :, :4], labels[:, :, :4])
    torch.testing.assert_close(whole, half)


def test_a_full_mask_changes_nothing_and_an_empty_one_gives_zero() -> None:
    logits, labels = example()
    logits.requires_grad_()
    loss = RegionTverskyLoss((2, 2, 2))
    torch.testing.assert_close(loss(logits, labels, torch.ones_like(labels)), loss(logits, labels))
    empty = loss(logits, labels, torch.zeros_like(labels))
    empty.backward()
    assert empty == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ignored_voxels_count_as_background_unless_masked() -> None:
    logits, labels = example()
    labels[:, :, :2] = 7
    moved = logits.clone()
    moved[:, 1, :2] += 4
    published = MambaClinixLoss((2, 2, 2), ignore_label=7)
    masked = MambaClinixLoss((2, 2, 2), ignore_label=7, mask_regions=True)
    assert abs(published(moved, labels) - published(logits, labels)) > 1e-3
    torch.testing.assert_close(masked(moved, labels), masked(logits, labels))


def test_a_right_answer_is_the_minimum_in_two_axes_too() -> None:
    _, labels = example((12, 10))
    right = 40.0 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
    assert RegionTverskyLoss((4, 3, 2))(right, labels) == pytest.approx(-1, abs=1e-4)
    assert RegionTverskyLoss((4, 3, 2))(-right, labels) > -0.1


def test_half_precision_does_not_lose_the_small_regions() -> None:
    logits, labels = example()
    expected = RegionTverskyLoss((4, 4, 4))(logits.bfloat16().float(), labels)
    assert torch.equal(RegionTverskyLoss((4, 4, 4))(logits.bfloat16(), labels), expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 8, 12, 10), "label map .B, 1"),
        (torch.full((2, 1, 8, 12, 10), 3), r"labels must lie in 0 \.\.\. 2, not 3 \.\.\. 3"),
    ],
)
def test_refuses_labels_that_do_not_fit(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionTverskyLoss()(example()[0], labels)
