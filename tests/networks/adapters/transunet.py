"""TransUNet in the authors' terms."""

from __future__ import annotations

from medvit.networks import TransUNet
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> TransUNet:
    arguments = golden.manifest["config"]
    config = arguments["config"]
    vit, resnet = config["transformer"], config.get("resnet")
    hybrid = {}
    if resnet is not None:
        hybrid = {"resnet_width": int(64 * resnet["width_factor"]), "n_skip": config["n_skip"]}
    return TransUNet(
        in_channels=golden.manifest["inputs"]["x"]["shape"][1],
        out_channels=arguments["num_classes"],
        img_size=arguments["img_size"],
        hidden_size=config["hidden_size"],
        mlp_dim=vit["mlp_dim"],
        num_heads=vit["num_heads"],
        num_layers=vit["num_layers"],
        resnet_depths=None if resnet is None else resnet["num_layers"],
        decoder_channels=config["decoder_channels"],
        dropout=vit["dropout_rate"],
        **hybrid,
    )


ADAPTERS = {("transunet", "VisionTransformer"): Adapter(build, TransUNet.load_published)}
