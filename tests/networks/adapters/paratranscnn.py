"""ParaTransCNN in the authors' terms."""

from __future__ import annotations

from medvit.networks import ParaTransCNN
from tests.networks.goldens import Adapter, Golden


def build(golden: Golden) -> ParaTransCNN:
    config = golden.manifest["config"]
    return ParaTransCNN(
        in_channels=config["n_channels"],
        out_channels=config["num_classes"],
        dim=config["dim"],
        num_heads=config["heads"],
        depths=config["depth"],
    )


ADAPTERS = {("paratranscnn", "ParaTransCNN"): Adapter(build, ParaTransCNN.load_published)}
