"""SegFormer3D in the authors' terms."""

from __future__ import annotations

from medvit.networks import SegFormer3D
from tests.networks.goldens import Adapter, Golden

# The first public commit, under which the published weights were trained, scales by the number of heads.
HEADS_SCALE_COMMITS = ("5a149a6",)


def build(golden: Golden) -> SegFormer3D:
    config = dict(golden.manifest["config"])
    commit = golden.manifest["source"].get("commit", "")
    return SegFormer3D(
        in_channels=config.pop("in_channels"),
        out_channels=config.pop("num_classes"),
        decoder_dim=config.pop("decoder_head_embedding_dim"),
        attention_scale="heads" if commit.startswith(HEADS_SCALE_COMMITS) else "head_dim",
        **config,
    )


ADAPTERS = {("segformer3d", "SegFormer3D"): Adapter(build, SegFormer3D.load_published)}
