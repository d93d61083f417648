"""Regions from SAM: masks come back to their pixels, and what is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medvit.errors import MissingExtraError, WeightsError
from medvit.transforms import SamRegions
from medvit.transforms.sam_regions import distinct, paint
from tests.transforms.phantoms import body


class FakeSam:
    """Answers a point with the pixels as bright or dark as the one under it, in SAM's own frames."""

    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=128))

    def get_image_embeddings(self, pixels: Tensor) -> Tensor:
        assert pixels.shape == (1, 3, 128, 128)
        return pixels[:, :1, ::2, ::2]

    def __call__(
        self, image_embeddings: Tensor, input_points: Tensor, input_labels: Tensor, multimask_output: bool
    ) -> SimpleNamespace:
        assert multimask_output and input_labels.shape == input_points.shape[:3] and (input_labels == 1).all()
        x, y = (input_points[0, :, 0] / 2).long().unbind(-1)
        bright = image_embeddings[0, 0] > 0
        alike = bright == bright[y, x][:, None, None]
        masks = torch.where(alike, 8.0, -8.0)[None, :, None].repeat(1, 1, 3, 1, 1)
        scores = torch.tensor([0.5, 0.95, 0.9]).expand(1, len(x), 3)  # the first is not sure enough
        masks[:, :, 2] = 0.5  # and the last not stable
        return SimpleNamespace(pred_masks=masks, iou_scores=scores)


@pytest.mark.parametrize("size", [(64, 48), (40, 96)])
def test_sam_masks_come_back_to_their_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = size
    image = np.zeros((1, height, width), np.float32)
    image[:, 8:32, 4:20] = 1
    monkeypatch.setattr(SamRegions, "model", FakeSam())
    regions = SamRegions("unused", points_per_side=16, min_stability=0.9)(image)
    assert set(np.unique(regions)) <= {1, 2, 3}  # 3: the seam between the two
    assert (regions == 1 + image[0]).mean() > 0.97
    assert (regions[10:30, 6:18] == 2).all()


def test_near_duplicates_go_and_small_masks_lie_on_top() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 5, 10, 15]], float)
    assert distinct(boxes, np.array([0.9, 0.95, 0.8]), 0.7) == [1, 2]
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2, :2], masks[1, :3, :3] = True, True
    assert paint(masks).tolist() == [[2, 2, 1, 3], [2, 2, 1, 3], [1, 1, 1, 3], [3, 3, 3, 3]]


def test_sam_without_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"SAM needs an image \(1, H, W\) or \(3, H, W\), not \(2, 8, 8\)"):
        SamRegions(tmp_path)(np.zeros((2, 8, 8)))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medvit\[sam\]'"):
        SamRegions(tmp_path)(body())


@pytest.mark.slow
def test_sam_through_transformers(tmp_path: Path) -> None:
    """A small SAM of random weights, saved and read as published ones are."""
    transformers = pytest.importorskip("transformers", reason="needs medvit[sam]")
    with pytest.raises(WeightsError, match="holds no SAM model"):
        _ = SamRegions(tmp_path).model
    frame = {"image_size": 64, "patch_size": 8}
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "output_channels": 16}
    vision |= {"mlp_dim": 32, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8}
    prompt = {"hidden_size": 16, "image_embedding_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16}
    config = transformers.SamConfig(
        vision_config=vision | frame,
        prompt_encoder_config=prompt | frame,
        mask_decoder_config=decoder,
    )
    torch.manual_seed(0)
    model = transformers.SamModel(config)
    for parameter in model.parameters():  # as initialised, its masks are all or nothing
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    maker = SamRegions(
        tmp_path, points_per_side=6, points_per_batch=10, min_iou=-1e9, min_stability=0, max_box_overlap=0.9
    )
    image = body()
    regions = maker(image)
    assert regions.shape == (64, 48) and regions.dtype == np.int32 and regions.max() >= 2
    np.testing.assert_array_equal(maker(np.repeat(image, 3, axis=0)), regions)
    assert (SamRegions(tmp_path, min_iou=1e9)(image) == 1).all()
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks mask_decoder\.iou_token\.weight"):
        _ = SamRegions(tmp_path).model
    file.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a SAM model that transformers can load"):
        _ = SamRegions(tmp_path).model
