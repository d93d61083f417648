"""MambaClinix and its blocks in the authors' terms."""

from __future__ import annotations

from torch import Tensor

from medvit.networks import MambaClinix
from medvit.networks.mambaclinix import PUBLISHED_NAMES, ConvMixer, HierarchicalConv, MambaMixer
from tests.networks.goldens import Adapter, Golden
from tests.networks.units import load_unit


def build(golden: Golden) -> MambaClinix:
    config = golden.manifest["config"]
    return MambaClinix(
        in_channels=config["input_channels"],
        out_channels=config["num_classes"],
        features=config["features"],
        kernel_size=config["kernels"],
        strides=config["strides"],
        deep_supervision=config.get("deep_supervision", False),
    )


def build_hierarchical_conv(golden: Golden) -> HierarchicalConv:
    config = golden.manifest["config"]
    return HierarchicalConv(config["input_channels"], (config["kernel_size"],) * 3, config["order"])


def build_conv_mixer(golden: Golden) -> ConvMixer:
    config = golden.manifest["config"]
    return ConvMixer(config["input_channels"], config["kernel_size"], config["order"], config["drop_path"])


def build_mamba_mixer(golden: Golden) -> MambaMixer:
    return MambaMixer(golden.manifest["config"]["input_dim"])


def call(network: MambaClinix, inputs: dict[str, Tensor]) -> list[Tensor]:
    return network.levels(inputs["x"])


load_mixer = load_unit("encoder.encoder_layers.0", "mixers.0", PUBLISHED_NAMES, MambaClinix.unused)
load_conv = load_unit("encoder.encoder_layers.0.hgConvs", "mixers.0.mix", PUBLISHED_NAMES, MambaClinix.unused)

ADAPTERS = {
    ("mambaclinix", "MambaClinix"): Adapter(build, MambaClinix.load_published, call),
    ("mambaclinix", "hgConv"): Adapter(build_hierarchical_conv, load_conv),
    ("mambaclinix", "HGCN_BLOCK"): Adapter(build_conv_mixer, load_mixer),
    ("mambaclinix", "MambaLayer"): Adapter(build_mamba_mixer, load_mixer),
}
