"""Region maps: every source gives valid ones, and bad ones are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from safetensors.torch import load_file, save_file
from torch import Tensor

from medvit.errors import MissingExtraError, WeightsError
from medvit.networks.rat import group_regions
from medvit.transforms import RegionMapd, SamRegions
from medvit.transforms.regions import felzenszwalb_regions, given_regions, slic_regions
from medvit.transforms.sam_regions import distinct, paint


def phantom(height: int = 64, width: int = 48) -> np.ndarray:
    """Air, a body, and an organ in it, in HU with noise."""
    rng = np.random.default_rng(0)
    image = np.full((1, height, width), -1000.0, np.float32)
    image[:, 8:-8, 8:-8] = 0
    image[:, 20:40, 14:30] = 400
    return image + rng.normal(0, 10, image.shape).astype(np.float32)


def test_felzenszwalb_finds_the_parts_in_any_unit() -> None:
    image = phantom()
    regions = felzenszwalb_regions(image, sigma=0.5)
    assert regions[0, 0] != regions[12, 10] != regions[30, 20] != regions[0, 0]
    assert regions.dtype == np.int32 and regions.min() == 1
    np.testing.assert_array_equal(felzenszwalb_regions(image / 1000 + 7, sigma=0.5), regions)


def test_felzenszwalb_neither_collapses_nor_crumbles() -> None:
    image = phantom()
    assert felzenszwalb_regions(image, scale=1e5).max() > 1
    noise = np.random.default_rng(0).random((1, 80, 80))
    crumbled = felzenszwalb_regions(noise, scale=0.1, sigma=0, min_size=2)
    assert crumbled.max() > 200
    assert felzenszwalb_regions(noise, scale=0.1, sigma=0, min_size=2, max_regions=50).max() <= 50
    assert (felzenszwalb_regions(np.ones((1, 32, 32))) == 1).all()


def test_slic_gives_about_as_many_regions_as_asked() -> None:
    assert 8 <= slic_regions(phantom(), n_segments=16).max() <= 24
    assert slic_regions(np.repeat(phantom(), 3, axis=0)).shape == (64, 48)


def test_the_transform_adds_a_map_in_the_image_space() -> None:
    image = MetaTensor(torch.from_numpy(phantom()), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    sample = RegionMapd("image", source="slic", n_segments=16)({"image": image})
    regions = sample["regions"]
    assert regions.shape == (1, 64, 48) and regions.dtype == torch.int32
    assert torch.equal(regions.affine, image.affine)
    assert regions.meta["region_source"] == "slic, n_segments=16"
    assert "region_source" not in image.meta
    assert len(group_regions(regions[:, ::4, ::4].flatten(1))) > 0


def test_two_images_get_two_maps() -> None:
    transform = RegionMapd(["ct", "pet"], ["ct_regions", "pet_regions"], allow_missing_keys=True)
    sample = transform({"pet": phantom(32, 32)})
    assert set(sample) == {"pet", "pet_regions"}
    with pytest.raises(ValueError, match="its own region key"):
        RegionMapd(["ct", "pet"])


def test_a_given_map_is_checked() -> None:
    transform = RegionMapd("image", source="given")
    labels = np.arange(64 * 48, dtype=np.float64).reshape(1, 64, 48) // 100
    regions = transform({"image": phantom(), "regions": labels})["regions"]
    np.testing.assert_array_equal(regions.numpy(), labels)
    with pytest.raises(ValueError, match=r"the region map is \(48, 64\), its image \(64, 48\)"):
        transform({"image": phantom(), "regions": labels.reshape(1, 48, 64)})
    for wrong in (labels + 0.5, np.full_like(labels, np.nan), labels + 2.0**40):
        with pytest.raises(ValueError, match="not whole 32-bit labels"):
            given_regions(wrong, (64, 48))
    with pytest.raises(ValueError, match="has no 'regions'"):
        transform({"image": phantom()})


def test_refusals() -> None:
    with pytest.raises(ValueError, match="source must be"):
        RegionMapd("image", source="watershed")
    with pytest.raises(ValueError, match=r"\(C, H, W\), 'image' is \(1, 8, 8, 8\)"):
        RegionMapd("image")({"image": np.zeros((1, 8, 8, 8))})
    with pytest.raises(ValueError, match="not finite"):
        slic_regions(np.full((1, 16, 16), np.nan))
    with pytest.raises(ValueError, match="max_regions must be positive"):
        felzenszwalb_regions(phantom(), max_regions=0)


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
    transform = RegionMapd("image", source="sam", weights=tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install 'medvit\[sam\]'"):
        transform({"image": phantom()})


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
    image = phantom()
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
