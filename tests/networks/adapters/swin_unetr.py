"""Swin UNETR in MONAI's terms."""

from __future__ import annotations

from torch import Tensor

from medvit.networks import SwinPretrainer, SwinUNETR
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> SwinUNETR:
    version = tuple(int(n) for n in golden.manifest["source"]["commit"].split(".")[:2])
    return SwinUNETR(**golden.manifest["config"], patch_merging="current" if version >= (1, 5) else "legacy")


def load(network: SwinUNETR, state: dict[str, Tensor]) -> None:
    network.load_published(state, network.patch_merging)


def build_pretrainer(golden: Golden) -> SwinPretrainer:
    config = golden.manifest["config"]
    sizes = {name: config[name] for name in ("feature_size", "depths", "num_heads", "window_size")}
    return SwinPretrainer(config["in_channels"], **sizes)


ADAPTERS = {
    ("swin_unetr", "SwinUNETR"): Adapter(build, load),
    ("swin_unetr", "SSLHead"): Adapter(build_pretrainer, SwinPretrainer.load_published),
}
