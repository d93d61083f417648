"""CATANet in the authors' terms."""

from __future__ import annotations

from medvit.networks import CATANet
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> CATANet:
    config = golden.manifest["config"]
    setting = config["setting"]
    return CATANet(
        in_channels=config["in_chans"],
        upscale=config["upscale"],
        dim=setting["dim"],
        qk_dim=setting["qk_dim"],
        mlp_dim=setting["mlp_dim"],
        num_heads=setting["heads"],
        num_tokens=config["num_tokens"],
        group_size=config["group_size"],
        n_iters=config["n_iters"],
        patch_sizes=setting["patch_size"],
    )


ADAPTERS = {("catanet", "CATANet"): Adapter(build, CATANet.load_published)}
