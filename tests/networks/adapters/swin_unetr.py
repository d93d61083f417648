"""Swin UNETR in MONAI's terms."""

from __future__ import annotations

from torch import Tensor

from medvit.networks import SwinUNETR
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> SwinUNETR:
    version = tuple(int(n) for n in golden.manifest["source"]["commit"].split(".")[:2])
    return SwinUNETR(**golden.manifest["config"], patch_merging="current" if version >= (1, 5) else "legacy")


def load(network: SwinUNETR, state: dict[str, Tensor]) -> None:
    network.load_published(state, network.patch_merging)


ADAPTERS = {("swin_unetr", "SwinUNETR"): Adapter(build, load)}
