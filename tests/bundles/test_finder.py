"""Where another bundle finds structures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medvit.bundles import StructureFinder
from medvit.bundles import finder as module
from medvit.errors import MedvitError


class Opened:
    """Parts of a bundle whose network doubles the image and whose labels are where that exceeds 1."""

    def part(self, name: str) -> object:
        def read(case: dict) -> dict:
            raise AssertionError("the study has been read")

        def double(case: dict) -> dict:
            return {"image": 2 * case["image"]}

        def infer(image: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
            return 19 * (network(image) > 1).to(torch.uint8)

        def keep_left(case: dict) -> dict:
            case["pred"][:, 5:] = 0
            return case

        return {
            "preprocessing": Compose([read, double]), "network": torch.nn.Identity(), "inferer": infer,
            "postprocessing": keep_left,
        }[name]  # fmt: skip


def test_places_are_in_patient_millimetres_after_all_steps_of_the_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "open_bundle", lambda bundle, **settings: Opened())
    affine = torch.tensor([[0, -2.0, 0, 9], [3, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(torch.zeros(1, 8, 6, 4), affine=affine)
    image[0, 1, 2, 3] = image[0, 6, 2, 3] = 0.6
    found = StructureFinder("segformer3d_brain")(image)
    assert list(found) == ["left hippocampus"]
    np.testing.assert_allclose(found["left hippocampus"], [[9 - 2 * 2, 3 * 1, 3]])


def test_a_bundle_that_does_not_segment_finds_nothing() -> None:
    with pytest.raises(MedvitError, match="rat_mr_denoise does not segment"):
        StructureFinder("rat_mr_denoise")(MetaTensor(torch.zeros(1, 4, 4, 4)))
