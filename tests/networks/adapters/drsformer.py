"""DRSformer in the authors' terms."""

from __future__ import annotations

from medvit.networks import DRSformer
from tests.networks.goldens import Adapter, Golden

NORMS = {"WithBias": "with_bias", "BiasFree": "bias_free"}


def build(golden: Golden) -> DRSformer:
    config = golden.manifest["config"]
    return DRSformer(
        in_channels=config["inp_channels"],
        dim=config["dim"],
        depths=config["num_blocks"],
        num_heads=config["heads"],
        ffn_factor=config["ffn_expansion_factor"],
        bias=config["bias"],
        norm=NORMS[config["LayerNorm_type"]],
        experts=any(name.startswith("encoder_level0.") for name in golden.manifest["state"]),
    )


ADAPTERS = {("drsformer", "DRSformer"): Adapter(build, DRSformer.load_published)}
