"""Trainings that start from the encoder of a network's authors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medvit.errors import WeightsError
from medvit.networks import CSwin, CSwinUNet, MaskedAutoencoder, SegFormer3D, SwinUNETR, TransUNet
from medvit.training import find_base
from medvit.training.published_encoders import load_published_encoder
from tests.networks.checks import published_autoencoder
from tests.training.test_pretraining import SMALL
from tests.training.test_pretraining_tasks import SWIN, VIT


def test_a_plain_transformer_starts_from_a_masked_autoencoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = MaskedAutoencoder.of_images(
        3, (32, 32), (16, 16), 24, 12, depth=2, num_heads=2, decoder_depth=1, decoder_num_heads=2,
        mlp_ratio=2.0,
    )  # fmt: skip
    published = published_autoencoder(encoder)
    file = tmp_path / "mae.pth"
    torch.save({"model": published}, file)
    network = TransUNet(**VIT, out_channels=4, img_size=32).eval()
    matched = load_published_encoder(network, file)
    rest = ("widen.", "ups.", "readout.")
    assert matched == sum(not name.startswith(rest) for name in network.state_dict())
    image = torch.rand(1, 1, 32, 32)
    tokens = network.embed(image.expand(-1, 3, -1, -1)).flatten(2).mT + network.position
    entrance = encoder.entrance_of(image)
    torch.testing.assert_close(tokens, entrance.tokens(image.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(network.blocks(tokens), encoder.blocks(tokens))
    assert load_published_encoder(TransUNet(**VIT, out_channels=4, img_size=(48, 32)), file) == matched
    # Some authors publish the encoder alone.
    alone = {n: v for n, v in published.items() if not n.startswith(("decoder", "mask_token"))}
    torch.save({"model": alone}, file)
    fresh = TransUNet(**VIT, out_channels=4, img_size=32)
    assert load_published_encoder(fresh, file) == matched
    assert torch.equal(fresh.blocks[1].attention.qkv.weight, encoder.blocks[1].attention.qkv.weight)


def test_swin_unetr_by_name_takes_the_merging_of_published_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, own = (SwinUNETR(**SWIN, out_channels=2, patch_merging="legacy") for _ in range(2))
    state = {f"module.{n}": v for n, v in theirs.state_dict().items() if n.startswith("swinViT.")}
    file = tmp_path / "model_swinvit.pt"
    torch.save({"state_dict": state}, file)
    assert load_published_encoder(own, file) == len(state)
    assert torch.equal(
        own.state_dict()["swinViT.patch_embed.proj.weight"], theirs.swinViT.patch_embed.proj.weight
    )
    base = find_base("SwinUNETR", size="tiny", pretrained=file)
    assert base.network["patch_merging"] == "legacy" and base.encoder == file
    assert "patch_merging" not in find_base("SwinUNETR", size="tiny").network


def test_cswin_unet_starts_from_a_backbone(tmp_path: Path) -> None:
    network = CSwinUNet(1, 2, img_size=64, embed_dim=16, depths=(1, 1, 1, 1), stripe_widths=(1, 2, 2, 2))
    backbone = CSwin(3, 16, (1, 1, 1, 1), (2, 4, 8, 16), (1, 2, 2, 2))
    torch.save({"state_dict_ema": backbone.state_dict()}, tmp_path / "cswin.pth")
    load_published_encoder(network, tmp_path / "cswin.pth")
    assert torch.equal(network.stage3[0].qkv.weight, backbone.stage3[0].qkv.weight)
    assert torch.equal(network.stage_up3[0].qkv.weight, backbone.stage3[0].qkv.weight)


def test_other_networks_and_files_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="SegFormer3D does not start from such a file"):
        load_published_encoder(SegFormer3D(**SMALL, out_channels=2), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no such file"):
        find_base("ViT", pretrained=tmp_path / "missing.pth")
    (tmp_path / "broken.pth").write_bytes(b"no")
    with pytest.raises(WeightsError, match="not a file of plain tensors"):
        find_base("ViT", pretrained=tmp_path / "broken.pth")
    (tmp_path / "broken.npz").write_bytes(b"no")
    with pytest.raises(WeightsError, match="not an npz of plain arrays"):
        find_base("ViT", pretrained=tmp_path / "broken.npz")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="was not written by medvit pretrain"):
        find_base("ViT", pretrained=tmp_path / "foreign.safetensors")
