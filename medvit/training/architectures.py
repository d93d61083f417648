"""The networks that can be trained by name, each in three sizes."""

from __future__ import annotations

import re
from typing import Any, Literal

from medvit.bundles.find import Bundle, find_bundle, installed_bundles, is_bundle
from medvit.errors import MedvitError, did_you_mean

Size = Literal["tiny", "small", "base"]

# Wraps a network at half resolution, whose input and output channels equal the width.
_WIDTH = 32


def _detail(**network: Any) -> dict[str, Any]:
    return {
        "_target_": "medvit.networks.DetailSegmenter",
        "width": _WIDTH,
        "network": {**network, "in_channels": _WIDTH, "out_channels": _WIDTH},
    }


def _segformer3d(dims: list[int], heads: list[int], depths: list[int], **rest: Any) -> dict[str, Any]:
    return {
        "_target_": "medvit.networks.SegFormer3D", "embed_dims": dims, "num_heads": heads, "depths": depths,
        "patch_kernel_size": [3, 3, 3, 3], "patch_stride": [2, 2, 2, 2], "patch_padding": [1, 1, 1, 1],
        "head": "detail", "norm": "group", **rest,
    }  # fmt: skip


def _swin_unetr(feature_size: int) -> dict[str, Any]:
    return {"_target_": "medvit.networks.SwinUNETR", "feature_size": feature_size}


def _transunet(hidden: int, layers: int, heads: int, **rest: Any) -> dict[str, Any]:
    return {
        "_target_": "medvit.networks.TransUNet", "img_size": 96, "hidden_size": hidden, "mlp_dim": 2 * hidden,
        "num_heads": heads, "num_layers": layers, "dropout": 0.0, **rest,
    }  # fmt: skip


def _vit(hidden: int, layers: int, heads: int, decoder: list[int]) -> dict[str, Any]:
    return _transunet(hidden, layers, heads, mlp_dim=4 * hidden, resnet_depths=None, decoder_channels=decoder)


def _unetr(hidden: int, heads: int, feature_size: int) -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.UNETR", "img_size": [64, 64, 64], "hidden_size": hidden,
        "mlp_dim": 4 * hidden, "num_heads": heads, "feature_size": feature_size, "qkv_bias": True,
    }  # fmt: skip


def _d_former(dim: int, depths: list[int], heads: list[int]) -> dict[str, Any]:
    return _detail(
        _target_="medvit.networks.DFormer", embed_dim=dim, depths=depths, num_heads=heads,
        patch_size=[2, 2, 2], group_size=[4, 4, 4], deep_supervision=False,
    )  # fmt: skip


def _mambaclinix(features: list[int]) -> dict[str, Any]:
    return _detail(
        _target_="medvit.networks.MambaClinix", features=features, strides=[1, 2, 2, 2],
        drop_path_rate=0.0,
    )  # fmt: skip


def _xlstm_unet(features: list[int]) -> dict[str, Any]:
    return _detail(_target_="medvit.networks.XLSTMUNet", features=features, strides=[1, 2, 2, 2])


def _paratranscnn(dim: int, heads: int, depths: list[int]) -> dict[str, Any]:
    return {
        "_target_": "medvit.networks.ParaTransCNN", "dim": dim, "num_heads": heads, "depths": depths,
        "dropout": 0.0,
    }  # fmt: skip


def _cswin_unet(dim: int, depths: list[int], heads: list[int]) -> dict[str, Any]:
    return {
        "_target_": "medvit.networks.CSwinUNet", "img_size": 128, "embed_dim": dim, "depths": depths,
        "num_heads": heads,
    }  # fmt: skip


def _cswin_unetr(feature_size: int, depths: list[int]) -> dict[str, Any]:
    return {
        "_target_": "medvit.networks.CSwinUNETR", "feature_size": feature_size, "depths": depths,
        "num_heads": [3, 6, 12, 24],
    }  # fmt: skip


# "base" has the published widths, or those of Swin UNETR for CSwinUNETR, which has none. DFormer, MambaClinix
# and XLSTMUNet work at half resolution between a stem and a readout, without which a step on a
# CPU takes about three times as long.
_SIZES: dict[str, dict[Size, dict[str, Any]]] = {
    "SegFormer3D": {
        "tiny": _segformer3d(
            [16, 32, 64, 128], [1, 1, 2, 4], [1, 1, 2, 1], mlp_ratios=[2] * 4, decoder_dim=16
        ),
        "small": _segformer3d(
            [32, 64, 160, 256], [1, 2, 5, 8], [2, 2, 2, 2], mlp_ratios=[2] * 4, decoder_dim=32
        ),
        "base": _segformer3d(
            [64, 128, 320, 512], [1, 2, 5, 8], [3, 3, 3, 3], mlp_ratios=[4] * 4, decoder_dim=64
        ),
    },
    "SwinUNETR": {"tiny": _swin_unetr(12), "small": _swin_unetr(24), "base": _swin_unetr(48)},
    "TransUNet": {
        "tiny": _transunet(
            192, 4, 6, resnet_depths=[2, 2, 2], resnet_width=32, decoder_channels=[128, 64, 48, 32]
        ),
        "small": _transunet(
            384, 6, 6, resnet_depths=[2, 3, 4], resnet_width=32, decoder_channels=[128, 64, 48, 32]
        ),
        "base": _transunet(768, 12, 12, mlp_dim=3072),
    },
    "DFormer": {
        "tiny": _d_former(24, [2, 2, 2, 2], [1, 2, 4, 8]),
        "small": _d_former(32, [2, 2, 4, 2], [1, 2, 4, 8]),
        "base": _d_former(96, [2, 2, 6, 2], [3, 6, 12, 24]),
    },
    "MambaClinix": {
        "tiny": _mambaclinix([8, 16, 32, 64]),
        "small": _mambaclinix([16, 32, 64, 128]),
        "base": _mambaclinix([32, 64, 128, 256]),
    },
    "XLSTMUNet": {
        "tiny": _xlstm_unet([8, 16, 32, 64]),
        "small": _xlstm_unet([16, 32, 64, 128]),
        "base": _xlstm_unet([32, 64, 128, 256]),
    },
    "ParaTransCNN": {
        "tiny": _paratranscnn(32, 4, [1, 1, 1]),
        "small": _paratranscnn(64, 8, [2, 2, 2]),
        "base": _paratranscnn(320, 8, [3, 3, 3]),
    },
    "CSwinUNet": {
        "tiny": _cswin_unet(16, [1, 1, 2, 1], [2, 4, 8, 16]),
        "small": _cswin_unet(32, [1, 2, 4, 1], [2, 4, 8, 16]),
        "base": _cswin_unet(64, [1, 2, 9, 1], [2, 4, 8, 16]),
    },
    "CSwinUNETR": {
        "tiny": _cswin_unetr(12, [1, 1, 2, 1]),
        "small": _cswin_unetr(24, [1, 2, 2, 1]),
        "base": _cswin_unetr(48, [1, 2, 4, 1]),
    },
    # Plain vision transformers: TransUNet without its ResNet over slices, and UNETR over volumes.
    "ViT": {
        "tiny": _vit(192, 6, 6, [64, 48, 32, 16]),
        "small": _vit(384, 12, 6, [128, 64, 32, 16]),
        "base": _vit(768, 12, 12, [256, 128, 64, 16]),
    },
    "UNETR": {"tiny": _unetr(192, 6, 8), "small": _unetr(384, 6, 16), "base": _unetr(768, 12, 16)},
}

# Light settings, for axial slices of one channel.
_RESTORERS: dict[str, dict[str, Any]] = {
    "HAT": {
        "_target_": "medvit.networks.HAT", "in_channels": 1, "upscale": 1, "embed_dim": 24, "depths": [2, 2],
        "num_heads": [2, 2], "window_size": 8, "compress_ratio": 2, "squeeze_factor": 8, "conv_scale": 1.0,
        "drop_path_rate": 0.0, "residual": True,
    },
    "DRSformer": {
        "_target_": "medvit.networks.DRSformer", "in_channels": 1, "dim": 16, "depths": [1, 1, 1, 2],
        "num_heads": [1, 2, 4, 8], "experts": False,
    },
}  # fmt: skip

NETWORKS = tuple(_SIZES)
RESTORERS = tuple(_RESTORERS)
SIZES: tuple[Size, ...] = ("tiny", "small", "base")
SLICEWISE = ("TransUNet", "ParaTransCNN", "CSwinUNet", "ViT")


def network_named(name: str) -> str | None:
    """The class that a name in any spelling ("swin-unetr", "segformer3d") stands for; ``None`` if none."""
    return _named(name, NETWORKS)


def restorer_network(name: str) -> dict[str, Any] | None:
    """The light configuration of a network that denoises axial slices, by its name in any spelling."""
    network = _named(name, RESTORERS)
    return dict(_RESTORERS[network]) if network else None


def start_named(name: str, *, trust: bool = False) -> Bundle | None:
    """The bundle that a training starts from; ``None`` for a network by its name.

    Nothing heavy is imported for it, so that a slip is answered at once.

    Raises
    ------
    MedvitError
        If nothing has that name, or it is the folder of a bundle that is not trusted.
    """
    networks = (*NETWORKS, *RESTORERS)
    if _named(name, networks):
        return None
    if not is_bundle(name):
        bundles = [bundle.name for bundle in installed_bundles() if not bundle.is_quantised]
        raise MedvitError(
            f"there is no bundle or network {name!r}{did_you_mean(name, (*networks, *bundles))}; "
            f"networks that can be trained: {', '.join(NETWORKS)}; with --degrade {', '.join(RESTORERS)}; "
            f"installed bundles: {', '.join(bundles) or 'none'}"
        )
    bundle = find_bundle(name, trust=trust)
    if bundle.is_quantised:
        original = bundle.facts["quantised"]["from"]
        raise MedvitError(f"bundle {bundle.name} is quantised and cannot be trained; train {original}")
    return bundle


def definition_of(network: str, size: str = "small") -> dict[str, Any]:
    """The configuration of a network of that name and size, for one channel and two classes.

    Raises
    ------
    MedvitError
        If the network or the size is unknown.
    """
    if network not in _SIZES:
        raise MedvitError(f"there is no network {network!r}; known networks are {', '.join(NETWORKS)}")
    sizes = {str(known): one for known, one in _SIZES[network].items()}
    if size not in sizes:
        raise MedvitError(f"--size must be one of {', '.join(sizes)}, not {size!r}")
    return {"in_channels": 1, "out_channels": 2, **sizes[size]}


def _named(name: str, networks: tuple[str, ...]) -> str | None:
    key = _key(name)
    return next((network for network in networks if _key(network) == key), None)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
