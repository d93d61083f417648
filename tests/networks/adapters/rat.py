"""RAT in the authors' terms."""

from __future__ import annotations

from medvit.networks import RAT
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> RAT:
    config = golden.manifest["config"]
    return RAT(
        in_channels=config["img_channel"],
        upscale=config["scale"],
        width=config["width"],
        encoder_depths=config["enc_blk_nums"],
        decoder_depths=config["dec_blk_nums"],
        num_blocks=config["middle_blk_num"] // config["n_layer_per_block"],
        layers_per_block=config["n_layer_per_block"],
        num_heads=config["num_heads"],
        window_size=config["window_size"],
        mlp_ratio=config["mlp_ratio"],
    )


ADAPTERS = {("rat", "RAT"): Adapter(build, RAT.load_published)}
