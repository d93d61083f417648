"""CRAFT in the authors' terms."""

from __future__ import annotations

from medvit.networks import CRAFT
from tests.networks.goldens import Adapter, Golden

SHARED = (
    "embed_dim",
    "depths",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "img_range",
    "resi_connection",
    "upscale",
)


def build(golden: Golden) -> CRAFT:
    config = golden.manifest["config"]
    rectangle = (config["split_size_0"], config["split_size_1"])
    shared = {name: config[name] for name in SHARED if name in config}
    return CRAFT(config["in_chans"], rectangle=rectangle, **shared)


ADAPTERS = {("craft", "CRAFT"): Adapter(build, CRAFT.load_published)}
