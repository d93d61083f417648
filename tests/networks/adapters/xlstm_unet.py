"""xLSTM-UNet and its blocks in the authors' terms."""

from __future__ import annotations

from torch import Tensor

from medvit.networks import XLSTMUNet
from medvit.networks.xlstm_unet import PUBLISHED_NAMES, ViLBlock, ViLMixer
from tests.networks.goldens import Adapter, Golden
from tests.networks.units import load_unit


def build(golden: Golden) -> XLSTMUNet:
    config = golden.manifest["config"]
    return XLSTMUNet(
        spatial_dims=config["dim"],
        in_channels=config["input_channels"],
        out_channels=config["num_classes"],
        variant=config["kind"].lower(),
        features=config["features"],
        kernel_size=config["kernels"],
        strides=config["strides"],
        img_size=config.get("input_size"),
        deep_supervision=config.get("deep_supervision", False),
    )


def build_mixer(golden: Golden) -> ViLMixer:
    config = golden.manifest["config"]
    return ViLMixer(config["dim"], config["channel_token"])


def build_block(golden: Golden) -> ViLBlock:
    config = golden.manifest["config"]
    return ViLBlock(config["dim"], reverse=config["direction"] == "rowwise_from_bot_right")


def call(network: XLSTMUNet, inputs: dict[str, Tensor]) -> list[Tensor]:
    return network.levels(inputs["x"])


load_mixer = load_unit("encoder.xlstm_layers.0", "mixers.0", PUBLISHED_NAMES, XLSTMUNet.unused)
load_block = load_unit("encoder.xlstm_layers.0.vil", "mixers.0.block", PUBLISHED_NAMES, XLSTMUNet.unused)

ADAPTERS = {
    ("xlstm_unet", "UXlstmBot"): Adapter(build, XLSTMUNet.load_published, call),
    ("xlstm_unet", "UXlstmEnc"): Adapter(build, XLSTMUNet.load_published, call),
    ("xlstm_unet", "ViLLayer"): Adapter(build_mixer, load_mixer),
    ("xlstm_unet", "ViLBlock"): Adapter(build_block, load_block),
}
