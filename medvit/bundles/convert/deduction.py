"""Deduction of a network's constructor arguments from the shapes and counts in a published state dict."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medvit.errors import WeightsError
from medvit.networks.layers.residual_unet import merge_aliases
from medvit.networks.published import StateDict

# Channels of a head in SegFormer3D, D-Former and TransUNet as published.
_HEAD_WIDTH = {"segformer3d": 32, "dformer": 32, "transunet": 64}


@dataclass
class Deduction:
    """A network's class, and as much of its configuration as its state dict shows.

    Parameters
    ----------
    target
        Class in `medvit.networks`.
    spatial_dims
        2 for networks over slices, 3 for networks over volumes.
    arguments
        Constructor arguments.
    needs
        Arguments that the state dict does not show, each with the words in which to ask for it.
    assumed
        Published values that were assumed without evidence, in sentences.
    img_size
        The only size in voxels, along the network's axes, that the network takes, if it is known.
    """

    target: str
    spatial_dims: int
    arguments: dict[str, Any]
    needs: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    img_size: tuple[int, ...] | None = None

    def complete(self, given: Mapping[str, Any]) -> None:
        """Take arguments from the user; they replace what was deduced."""
        self.arguments |= given
        for name in given:
            self.needs.pop(name, None)


def deduce(network: str, state: StateDict) -> Deduction:
    """Class and configuration of the network that a published state dict belongs to.

    Parameters
    ----------
    network
        Name of the network, in any spelling ("SegFormer3D", "swin-unetr").
    state
        The authors' entries, as `medvit.networks.read_checkpoint` gives them.

    Raises
    ------
    WeightsError
        If medvit does not make bundles of such a network, or the state dict does not have its layout.
    """
    key = re.sub(r"[^a-z0-9]", "", network.lower())
    if key in _NO_BUNDLE:
        raise WeightsError(_NO_BUNDLE[key])
    if key not in _RULES:
        raise WeightsError(f"there is no network {network!r} to convert; there are {', '.join(NETWORKS)}")
    try:
        return _RULES[key](merge_aliases(state))
    except (KeyError, IndexError, StopIteration) as error:
        raise WeightsError(
            f"this is not a checkpoint of {network} in its authors' layout: {error} is missing in it"
        ) from error


def _count(state: StateDict, pattern: str) -> int:
    """One more than the largest number that `pattern` finds in the entries' names."""
    numbers = [int(match[1]) for name in state if (match := re.match(pattern, name))]
    return max(numbers) + 1 if numbers else 0


def _ratio(hidden: int, dim: int) -> float | int:
    return hidden // dim if hidden % dim == 0 else hidden / dim


def _heads(found: Deduction, network: str, dims: list[int], argument: str = "num_heads") -> None:
    """Heads by the published width of one, where it divides the channels."""
    width = _HEAD_WIDTH[network]
    if all(dim % width == 0 for dim in dims):
        heads = [dim // width for dim in dims]
        found.arguments[argument] = heads if len(heads) > 1 else heads[0]
        found.assumed.append(f"{argument} of {width} channels each, as published")
    else:
        found.needs[argument] = f"the number of heads, for {dims} channels"


def _segformer3d(state: StateDict) -> Deduction:
    stages = range(1, _count(state, r"segformer_encoder\.embed_(\d)\."))
    kernels, dims, depths, ratios, reductions = [], [], [], [], []
    for i in stages:
        kernel = state[f"segformer_encoder.embed_{i}.patch_embeddings.weight"]
        block = f"segformer_encoder.tf_block{i}.0"
        kernels.append(int(kernel.shape[2]))
        dims.append(len(kernel))
        depths.append(_count(state, rf"segformer_encoder\.tf_block{i}\.(\d+)\."))
        ratios.append(_ratio(len(state[f"{block}.mlp.fc1.weight"]), len(kernel)))
        reduce = state.get(f"{block}.attention.sr.weight")
        reductions.append(1 if reduce is None else int(reduce.shape[2]))
    found = Deduction(
        "SegFormer3D",
        3,
        {
            "in_channels": int(state["segformer_encoder.embed_1.patch_embeddings.weight"].shape[1]),
            "out_channels": len(state["segformer_decoder.linear_pred.weight"]),
            "embed_dims": dims,
            "depths": depths,
            "mlp_ratios": ratios,
            "sr_ratios": reductions,
            "patch_kernel_size": kernels,
            "patch_stride": [(k + 1) // 2 for k in kernels],
            "patch_padding": [k // 2 for k in kernels],
            "decoder_dim": len(state["segformer_decoder.linear_fuse.0.weight"]),
        },
        {"attention_scale": "'heads' for the weights released in April 2024, 'head_dim' for later code"},
        [f"patches of kernel {kernels} step by half of that, as published"],
    )
    _heads(found, "segformer3d", dims)
    return found


def _swin_unetr(state: StateDict) -> Deduction:
    embed = state["swinViT.patch_embed.proj.weight"]
    if "encoder1.layer.norm1.weight" in state:
        raise WeightsError(
            "these Swin UNETR weights have norms with parameters, which no published ones have"
        )
    tables = [state[f"swinViT.layers{i}.0.blocks.0.attn.relative_position_bias_table"] for i in range(1, 5)]
    spatial_dims = embed.ndim - 2
    arguments = {
        "in_channels": int(embed.shape[1]),
        "out_channels": len(state["out.conv.conv.weight"]),
        "feature_size": len(embed),
        "depths": [_count(state, rf"swinViT\.layers{i}\.0\.blocks\.(\d+)\.") for i in range(1, 5)],
        "num_heads": [int(table.shape[1]) for table in tables],
        "window_size": (round(len(tables[0]) ** (1 / spatial_dims)) + 1) // 2,
        "use_v2": any(name.startswith("swinViT.layers1c.") for name in state),
        "spatial_dims": spatial_dims,
    }
    needs = {"patch_merging": "'legacy' for weights made with MONAI up to 1.4, 'current' from 1.5 on"}
    return Deduction("SwinUNETR", spatial_dims, arguments, needs)


def _slice_channels(found: Deduction, stem: int) -> None:
    """Take three input channels for one grey channel repeated, unless the user says otherwise."""
    found.arguments["in_channels"] = 1 if stem == 3 else stem
    if stem == 3:
        found.assumed.append("images of one channel, repeated to three for the first layer, as published")


def _transunet(state: StateDict) -> Deduction:
    embeddings, encoder = "transformer.embeddings", "transformer.encoder"
    root = state.get(f"{embeddings}.hybrid_model.root.conv.weight")
    hidden = len(state[f"{embeddings}.patch_embeddings.weight"])
    tokens = int(state[f"{embeddings}.position_embeddings"].shape[1])
    ups = [state[f"decoder.blocks.{i}.conv1.0.weight"] for i in range(4)]
    widths = [512, *(len(up) for up in ups)]
    skips = [int(up.shape[1]) - width for up, width in zip(ups, widths, strict=False)]
    units = rf"{embeddings}\.hybrid_model\.body\.block%d\.unit(\d+)\."
    depths = [_count(state, units % i) - 1 for i in (1, 2, 3)]
    found = Deduction(
        "TransUNet",
        2,
        {
            "out_channels": len(state["segmentation_head.0.weight"]),
            "hidden_size": hidden,
            "mlp_dim": len(state[f"{encoder}.layer.0.ffn.fc1.weight"]),
            "num_layers": _count(state, rf"{encoder}\.layer\.(\d+)\."),
            "resnet_depths": None if root is None else depths,
            "decoder_channels": widths[1:],
            "n_skip": sum(skip > 0 for skip in skips),
        },
    )
    if root is not None:
        found.arguments["resnet_width"] = len(root)
    stem = state[f"{embeddings}.patch_embeddings.weight"] if root is None else root
    _slice_channels(found, int(stem.shape[1]))
    _heads(found, "transunet", [hidden])
    side = math.isqrt(tokens)
    if side**2 == tokens:
        found.img_size = (16 * side, 16 * side)
        found.arguments["img_size"] = list(found.img_size)
        found.assumed.append("square slices, as published")
    else:
        found.needs["img_size"] = f"height and width of the slices, of {tokens} patches of 16x16"
    return found


def _paratranscnn(state: StateDict) -> Deduction:
    dim = len(state["patch_embed_1.weight"])
    found = Deduction(
        "ParaTransCNN",
        2,
        {
            "out_channels": len(state["out.weight"]),
            "dim": dim,
            "depths": [_count(state, rf"vit_{i}\.net\.(\d+)\.") // 2 for i in (1, 2, 3)],
        },
    )
    _slice_channels(found, int(state["firstconv.weight"].shape[1]))
    if dim == 320:
        found.arguments["num_heads"] = 8
        found.assumed.append("8 heads, as published")
    else:
        found.needs["num_heads"] = f"the number of heads, for {dim} channels"
    return found


def _d_former(state: StateDict) -> Deduction:
    embed = state["model_down.patch_embed.proj.weight"]
    first = "model_down.layers.0.blocks.0.mlp.fc1.weight"
    found = Deduction(
        "DFormer",
        3,
        {
            "in_channels": int(embed.shape[1]),
            "out_channels": len(state["final.0.1.weight"]),
            "embed_dim": len(embed),
            "depths": [_count(state, rf"model_down\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4)],
            "patch_size": list(embed.shape[2:]),
            "mlp_ratio": _ratio(len(state[first]), len(embed)),
            "deep_supervision": False,
        },
        {"group_size": "tokens of an attention group along D, H, W (2,8,8 by default in the authors' class)"},
    )
    _heads(found, "dformer", [len(embed) * 2**i for i in range(4)])
    return found


def _stage_kernels(state: StateDict, entry: str) -> list[tuple[int, ...]]:
    """Shapes (out, in, *kernel) of the first convolution of each stage."""
    count = _count(state, r"encoder\.stages\.(\d+)\.")
    return [tuple(state[f"encoder.stages.{i}.{entry}"].shape) for i in range(count)]


_STRIDES = "one entry a stage, from the nnU-Net plan, such as [1,2,2,[1,2,2]]"


def _mambaclinix(state: StateDict) -> Deduction:
    shapes = _stage_kernels(state, "blocks.0.conv1.conv.weight")
    return Deduction(
        "MambaClinix",
        3,
        {
            "in_channels": int(state["encoder.stem.convs.0.conv.weight"].shape[1]),
            "out_channels": len(state["decoder.seg_layers.0.weight"]),
            "features": [shape[0] for shape in shapes],
            "kernel_size": [list(shape[2:]) for shape in shapes],
        },
        {"strides": _STRIDES},
    )


def _xlstm_unet(state: StateDict) -> Deduction:
    shapes = _stage_kernels(state, "0.conv1.weight")
    bottleneck = any(name.startswith("xlstm.") for name in state)
    spatial_dims = len(shapes[0]) - 2
    found = Deduction(
        "XLSTMUNet",
        spatial_dims,
        {
            "spatial_dims": spatial_dims,
            "in_channels": int(state["encoder.stem.0.conv1.weight"].shape[1]),
            "out_channels": len(state["decoder.seg_layers.0.weight"]),
            "variant": "bot" if bottleneck else "enc",
            "features": [shape[0] for shape in shapes],
            "kernel_size": [list(shape[2:]) for shape in shapes],
        },
        {"strides": _STRIDES},
    )
    norms = ((i, state.get(f"encoder.xlstm_layers.{i}.vil.norm.weight")) for i in range(len(shapes)))
    if any(norm is not None and len(norm) != shapes[i][0] for i, norm in norms):
        found.needs["img_size"] = "the patch size of the training, to which channel tokens tie the network"
    return found


_RULES: dict[str, Callable[[StateDict], Deduction]] = {
    "segformer3d": _segformer3d,
    "swinunetr": _swin_unetr,
    "transunet": _transunet,
    "paratranscnn": _paratranscnn,
    "dformer": _d_former,
    "mambaclinix": _mambaclinix,
    "xlstmunet": _xlstm_unet,
}
NETWORKS = ("SegFormer3D", "SwinUNETR", "TransUNet", "ParaTransCNN", "DFormer", "MambaClinix", "XLSTMUNet")

_NO_BUNDLE = {
    "r2tmil": "R2TMIL classifies bags of patch features, which are not studies: "
    "build medvit.networks.R2TMIL and fill it with its load_published",
    "rat": "RAT restores slices given a map of their regions, which no study brings along: "
    "build medvit.networks.RAT, fill it with its load_published and give it maps from "
    "medvit.transforms.RegionMapd",
}
