"""Slices as samples: each one, turned alike with its label, and labelled one by one."""

from __future__ import annotations

import torch
from torch import nn

from medvit.training.recipes import (
    SliceDataset,
    SliceProtocolInferer,
    TurnSliced,
)


class Mean(nn.Module):
    """Class 1 where the slice is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 * torch.ones_like(image), image * self.weight], dim=1)


def test_every_slice_is_a_sample() -> None:
    volumes = [{"image": torch.rand(1, 4, 5, n), "label": torch.rand(1, 4, 5, n)} for n in (2, 3)]
    slices = SliceDataset(volumes, lambda sample: sample)
    assert len(slices) == 5
    torch.testing.assert_close(slices[3]["label"], volumes[1]["label"][..., 1])
    torch.testing.assert_close(slices[1]["image"], volumes[0]["image"][..., 1])


def test_image_and_label_turn_alike_and_by_all_kinds() -> None:
    image = torch.arange(400.0).reshape(1, 20, 20)
    transform, kinds = TurnSliced(["image", "label"]), set()
    transform.set_random_state(1)
    for _ in range(40):
        turned = transform({"image": image, "label": image.clone()})
        torch.testing.assert_close(turned["image"], turned["label"])
        whole = set(turned["image"].flatten().tolist()) == set(image.flatten().tolist())
        kinds.add("same" if torch.equal(turned["image"], image) else "quarter" if whole else "degrees")
    assert kinds == {"same", "quarter", "degrees"}


def test_the_slice_protocol_labels_axial_slices() -> None:
    volume = torch.zeros(1, 1, 8, 6, 4)
    volume[..., 2] = 1
    predicted = SliceProtocolInferer(img_size=(8, 6))(volume, Mean())
    assert predicted.shape == (1, 1, 8, 6, 4)
    assert torch.equal(predicted.bool(), volume.bool())
