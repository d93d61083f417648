"""PVT v2, UniFormer and DuoFormer in the authors' terms."""

from __future__ import annotations

from torch import Tensor, nn

from medvit.networks import DuoFormer, PVTv2, UniFormer
from medvit.networks.duoformer import MultiscaleFormer
from medvit.networks.layers.vit import BLOCK_NAMES
from medvit.networks.published import load_strictly, rename
from tests.networks.goldens import Adapter, Golden


def pvt(golden: Golden) -> PVTv2:
    config = golden.manifest["config"]
    return PVTv2(
        golden.manifest["inputs"]["x"]["shape"][1],
        config["num_classes"],
        config["embed_dims"],
        config["num_heads"],
        config["mlp_ratios"],
        config["depths"],
        config["sr_ratios"],
        config["qkv_bias"],
        config.get("linear", False),
    )


def tokens_and_logits(network: PVTv2, inputs: dict[str, Tensor]) -> list[Tensor]:
    maps, logits = network(*inputs.values())
    return [*(x.flatten(2).transpose(1, 2) for x in maps), logits]


def uniformer(golden: Golden) -> UniFormer:
    config = golden.manifest["config"]
    return UniFormer(
        golden.manifest["inputs"]["x"]["shape"][1],
        config["num_classes"],
        config["embed_dim"],
        config["depth"],
        config["head_dim"],
        config["mlp_ratio"],
        config["qkv_bias"],
        config["conv_stem"],
        any(name.endswith("gamma_1") for name in golden.manifest["state"]),
    )


def last_map_and_logits(network: UniFormer, inputs: dict[str, Tensor]) -> list[Tensor]:
    maps, logits = network(*inputs.values())
    return [maps[-1], logits]


def duoformer(golden: Golden) -> DuoFormer:
    config = golden.manifest["config"]
    return DuoFormer(
        golden.manifest["inputs"]["x"]["shape"][1],
        config["num_classes"],
        config["backbone"],
        config["num_layers"],
        config["scale_token"],
        config["embed_dim"],
        config["depth"],
        config["num_heads"],
        config["mlp_ratio"],
    )


def former(golden: Golden) -> MultiscaleFormer:
    config = golden.manifest["config"]
    tokens = golden.manifest["inputs"]["x"]["shape"][2]
    return MultiscaleFormer(
        config["embed_dim"],
        config["depth"],
        config["num_heads"],
        config["num_classes"],
        tokens,
        config["num_patches"],
        config["mlp_ratio"],
    )


def load_former(network: nn.Module, state: dict[str, Tensor]) -> None:
    load_strictly(network, state, lambda given: {rename(n, BLOCK_NAMES): v for n, v in given.items()})


ADAPTERS = {
    ("pvt_v2", "PyramidVisionTransformerV2"): Adapter(pvt, PVTv2.load_published, tokens_and_logits),
    ("uniformer", "UniFormer"): Adapter(uniformer, UniFormer.load_published, last_map_and_logits),
    ("duoformer", "MyModel_no_extra_params"): Adapter(duoformer, DuoFormer.load_published),
    ("duoformer", "MultiscaleFormer"): Adapter(former, load_former),
}
