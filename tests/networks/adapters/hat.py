"""HAT in the authors' terms."""

from __future__ import annotations

from medvit.networks import HAT
from tests.networks.goldens import Adapter, Golden

# Names that their constructor and ours share.
SHARED = (
    "embed_dim", "depths", "num_heads", "window_size", "compress_ratio", "squeeze_factor", "conv_scale",
    "overlap_ratio", "mlp_ratio", "qkv_bias", "patch_norm", "img_size", "img_range", "resi_connection",
    "upscale",
)  # fmt: skip


def build(golden: Golden) -> HAT:
    config = golden.manifest["config"]
    return HAT(config["in_chans"], **{name: config[name] for name in SHARED if name in config})


ADAPTERS = {("hat", "HAT"): Adapter(build, HAT.load_published)}
