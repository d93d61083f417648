"""Encoders in their authors' files, from which a training can start as from those of `medvit pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from medvit.errors import WeightsError
from medvit.networks import CSwinUNet, SwinUNETR, TransUNet
from medvit.networks.masked_autoencoder import AUTOENCODER_NAMES, resized_table
from medvit.networks.published import load_strictly, read_checkpoint, renamed
from medvit.networks.transunet import read_npz
from medvit.training.pretraining_patches import TRANSUNET_NAMES

_KNOWN = (
    "SwinUNETR (model_swinvit.pt), TransUNet and ViT (R50+ViT-B_16.npz, ViT-B_16.npz), ViT (masked "
    "autoencoders such as those of X-rays) and CSwinUNet (CSwin backbones)"
)


def is_ours(path: Path) -> bool:
    """Whether the name of a file is one that `medvit pretrain` gives."""
    return path.suffix == ".safetensors"


def check_published_encoder(path: Path) -> None:
    """Refuse a file that cannot be opened, before any work.

    Raises
    ------
    WeightsError
        If the file is missing, or holds anything but arrays.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of pre-trained weights")
    read_npz(path) if path.suffix == ".npz" else read_checkpoint(path)


def load_published_encoder(network: nn.Module, path: Path) -> int:
    """Fill the encoder of a network from its authors' file, every entry of it or none.

    Parameters
    ----------
    network
        Network to fill, in place.
    path
        File of the authors.

    Returns
    -------
    int
        Number of entries that were filled.

    Raises
    ------
    WeightsError
        If there is no such file for this network, or an entry is missing or of another shape.
    """
    if path.suffix == ".npz" and isinstance(network, TransUNet):
        return network.load_npz(path).matched
    if path.suffix != ".npz":
        given = read_checkpoint(path)
        if isinstance(network, SwinUNETR):
            return network.load_encoder(given, patch_merging=network.patch_merging).matched
        if isinstance(network, CSwinUNet):
            return network.load_backbone(given).matched
        if isinstance(network, TransUNet) and network.resnet is None and "pos_embed" in given:
            return _load_autoencoder(network, given)
    raise WeightsError(
        f"{path}: {type(network).__name__} does not start from such a file; it must be written by medvit "
        f"pretrain, or be a published encoder for {_KNOWN}"
    )


def _load_autoencoder(network: TransUNet, published: dict[str, Any]) -> int:
    """Fill a plain vision transformer from a masked autoencoder of images, with or without its decoder."""
    encoder = renamed(renamed(published, AUTOENCODER_NAMES), TRANSUNET_NAMES)
    own = network.state_dict()
    encoder = {name: value for name, value in encoder.items() if name in own}
    if "position" in encoder:
        encoder["position"] = resized_table(encoder["position"], network.grid)[:, 1:]
    decoder = {name: v for name, v in own.items() if name.startswith(("widen.", "ups.", "readout."))}
    load_strictly(network, decoder | encoder, dict)
    return len(encoder)
