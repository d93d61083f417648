"""D-Former in the authors' terms."""

from __future__ import annotations

from torch import Tensor

from medvit.networks import DFormer
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> DFormer:
    config = dict(golden.manifest["config"])
    assert config.pop("pretrain") is None
    return DFormer(in_channels=config.pop("in_chan"), out_channels=config.pop("num_classes"), **config)


def call(network: DFormer, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The authors' class returns two of its three levels."""
    return network.levels(inputs["x"], 2 if network.deep_supervision else 1)


ADAPTERS = {("d_former", "SegNetwork"): Adapter(build, DFormer.load_published, call)}
