"""What the goldens of the masked autoencoders do not show: volumes, two entrances, the carried encoder."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import WeightsError
from medvit.networks import MaskedAutoencoder, Uni4Eye, ViTClassifier
from medvit.networks.masked_autoencoder import Entrance, draw_mask, position_table
from tests.networks.checks import published_autoencoder

SIZES = {"depth": 1, "num_heads": 2, "decoder_depth": 1, "decoder_num_heads": 2}


def both() -> MaskedAutoencoder:
    flat = Entrance(1, (16, 16), (4, 4), 12, 12)
    deep = Entrance(1, (8, 8, 6), (4, 4, 3), 12, 12)
    return MaskedAutoencoder([flat, deep], 12, decoder_dim=12, **SIZES)


def test_slices_and_volumes_train_one_encoder() -> None:
    torch.manual_seed(0)
    network = both()
    for image in (torch.rand(2, 1, 16, 16), torch.rand(2, 1, 8, 8, 6)):
        network.zero_grad()
        loss, prediction, mask = network(image, 0.5)
        assert prediction.shape[1] == mask.shape[1] == (16 if image.ndim == 4 else 8)
        assert mask.sum() == 2 * (8 if image.ndim == 4 else 4)
        loss.backward()
        assert network.blocks[0].attention.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(4, 6), (4, 6, 2)])
def test_patches_hold_the_voxels_of_their_place(size: tuple[int, ...]) -> None:
    entrance = Entrance(2, size, (2,) * len(size), 12)
    image = torch.arange(2 * torch.Size(size).numel(), dtype=torch.float32).reshape(1, 2, *size)
    patches = entrance.patches(image)
    second = image[(0, slice(None), slice(2), slice(2, 4), *(slice(2),) * (len(size) - 2))]
    torch.testing.assert_close(patches[0, 1], second.movedim(0, -1).flatten())


def test_kept_tokens_alone_reach_the_encoder_and_removed_ones_the_loss() -> None:
    torch.manual_seed(0)
    network = MaskedAutoencoder.of_images(1, (8, 8), (4, 4), 8, 8, **SIZES)
    noise = torch.tensor([[0.3, 0.1, 0.9, 0.7]])
    image = torch.rand(1, 1, 8, 8)
    first = network(image, 0.5, noise)
    assert first.mask.tolist() == [[0, 0, 1, 1]]
    hidden = image.clone()
    hidden[..., 4:, :] += 1
    second = network(hidden, 0.5, noise)
    torch.testing.assert_close(second.prediction, first.prediction)
    target = network.entrances[0].patches(hidden)[:, 2:]
    torch.testing.assert_close(second.loss, (second.prediction[:, 2:] - target).square().mean())


def test_as_many_tokens_are_kept_as_the_authors_keep() -> None:
    assert draw_mask(torch.rand(1, 196), 0.9)[0].shape == (1, 19)
    assert draw_mask(torch.rand(1, 1000), 0.9)[0].shape == (1, 99)


def test_a_table_in_three_dimensions_tells_all_places_apart() -> None:
    table = position_table(12, (2, 3, 4))
    assert table.shape == (25, 12) and not table[0].any()
    assert len({tuple(row.tolist()) for row in table[1:]}) == 24
    with pytest.raises(ValueError, match="multiple of 6"):
        position_table(10, (2, 2, 2))


def test_the_encoder_is_carried_over_and_counted() -> None:
    torch.manual_seed(0)
    network = MaskedAutoencoder.of_images(3, (8, 8), (4, 4), 8, 8, **SIZES)
    published = published_autoencoder(network)
    classifier = ViTClassifier(3, (16, 16), (4, 4), 2, 8, 1, 2)
    report = classifier.load_encoder(published)
    assert report.matched == sum(not n.startswith(("norm.", "head.")) for n in classifier.state_dict())
    assert {name.split(".")[0] for name in report.ignored} >= {"mask_token", "decoder_embed", "norm"}
    assert torch.equal(classifier.blocks[0].attention.qkv.weight, network.blocks[0].attention.qkv.weight)
    assert classifier.entrance.position.shape == (1, 17, 8)  # resized from a grid of 2 x 2 to 4 x 4
    del published["blocks.0.norm1.weight"]
    with pytest.raises(WeightsError, match=r"missing: blocks\.0\.norm1\.weight"):
        classifier.load_encoder(published)


def test_an_image_of_another_size_or_kind_is_refused() -> None:
    network = MaskedAutoencoder.of_images(1, (8, 8), (4, 4), 8, 8, **SIZES)
    with pytest.raises(ValueError, match="takes images of"):
        network(torch.rand(1, 1, 8, 12))
    with pytest.raises(ValueError, match="no entrance for images of 3 axes"):
        network(torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="do not divide"):
        Entrance(1, (9, 8), (4, 4), 8)


def test_the_dynamic_head_hears_the_task() -> None:
    torch.manual_seed(0)
    network = Uni4Eye(1, (8, 8), (4, 4), (4, 4, 4), (2, 2, 4), 12, 12, **SIZES).eval()
    image, noise = torch.rand(1, 1, 8, 8), torch.rand(1, 4)
    outputs = [network(image, torch.tensor([task]), 0.5, noise) for task in (0, 3)]
    torch.testing.assert_close(outputs[0][0].prediction, outputs[1][0].prediction)
    assert not torch.allclose(outputs[0][1], outputs[1][1])
    with pytest.raises(ValueError, match="equally many tokens"):
        Uni4Eye(1, (8, 8), (4, 4), (4, 4, 4), (2, 2, 2), 12, 12, **SIZES)


def test_the_variant_for_images_alone_has_its_own_names_and_its_loss_before_the_head() -> None:
    torch.manual_seed(0)
    sizes = {"img_size": (8, 8), "patch_size": (4, 4), "dim": 12, "decoder_dim": 12, **SIZES}
    volumes = {"volume_size": (4, 4, 4), "volume_patch_size": (2, 2, 4)}
    both, flat = Uni4Eye(1, **sizes, **volumes), Uni4Eye(1, **sizes, volume_size=None, mixed_loss=False)
    published = {
        name.replace("entrances.0.proj", "patch_embed.proj")
        .replace("entrances.0.position", "pos_embed")
        .replace("entrances.0.decoder_position", "decoder_pos_embed")
        .replace("entrances.0.readout", "decoder_pred"): value
        for name, value in both.state_dict().items()
        if "entrances.1" not in name
    }
    assert flat.load_published(published | {"mlp.weight": torch.zeros(1)}).ignored == ("mlp.weight",)
    image, noise, task = torch.rand(2, 1, 8, 8), torch.rand(2, 4), torch.tensor([1, 2])
    (loss, prediction, mask), mixed = flat(image, task, 0.5, noise)
    (other, wanted, _), wanted_mixed = both(image, task, 0.5, noise)
    torch.testing.assert_close((prediction, mixed), (wanted, wanted_mixed))
    error = (prediction - flat.entrances[0].patches(image)).square().mean(-1)
    torch.testing.assert_close(loss, error[mask > 0].mean())
    assert loss != other
