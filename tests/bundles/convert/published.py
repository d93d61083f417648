"""Checkpoints in the authors' layouts, filled by the parity rule: the small goldens' own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvit.bundles.convert import ConversionSettings
from tests.networks.goldens import FOLDER, Golden, adapters


@dataclass(frozen=True)
class Case:
    """A golden and what must be said beside its checkpoint."""

    network: str
    golden_name: str
    given: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def golden(self) -> Golden:
        path = (Path(__file__).parents[2] / "goldens" if not FOLDER.is_dir() else FOLDER) / self.golden_name
        return Golden(json.loads(path.with_suffix(".json").read_text()), {})

    def save(self, folder: Path, **beside: Any) -> Path:
        """The checkpoint, with a training framework's records `beside` it."""
        path = folder / "published.pth"
        content = self.golden.state()
        torch.save({"network_weights": content, **beside} if beside else {"state_dict": content}, path)
        return path

    def theirs(self) -> nn.Module:
        """The network as built from the authors' constructor arguments."""
        adapter = adapters()[self.golden.key]
        network = adapter.build(self.golden).eval()
        adapter.load(network, self.golden.state())
        return network

    def conversion(self, **changes: Any) -> ConversionSettings:
        channels = {"labels": "a,b,c,d,e,f"[: 2 * self.out_channels - 3]}
        window = {"spacing": (4.0, 4.0, 4.0), "intensity": "percentile", "arguments": self.given}
        return ConversionSettings(**(channels | window | self.settings | changes))

    @property
    def out_channels(self) -> int:
        config = self.golden.manifest["config"]
        return config.get("num_classes") or config["out_channels"]


CASES = [
    Case(
        "SegFormer3D", "segformer3d_small",
        {"num_heads": [2, 4, 4, 6], "attention_scale": "head_dim"}, {"roi": (32, 32, 48)},
    ),
    Case("SwinUNETR", "swin_unetr_legacy", {"patch_merging": "legacy"}, {"roi": (32, 32, 64)}),
    Case("TransUNet", "transunet_small", {"num_heads": 4}, {"spacing": None}),
    Case(
        "D-Former", "d_former_small", {"num_heads": [2, 3, 4, 6], "group_size": [2, 8, 8]},
        {"roi": (32, 32, 16)},
    ),
    Case(
        "MambaClinix", "mambaclinix_aniso",
        {"strides": [1, [1, 2, 2], [1, 2, 2], 2, 2]}, {"roi": (32, 16, 8)},
    ),
    Case(
        "xLSTM-UNet", "xlstm_unet_enc3d_small_ds",
        {"strides": [1, [1, 2, 2], 2, 2, 2, [1, 2, 2]]}, {"roi": (64, 64, 16)},
    ),
    Case("xLSTM-UNet", "xlstm_unet_bot2d_small", {"strides": [1, 2, 2, 2, 2]}, {"roi": (32, 32, 4)}),
]  # fmt: skip
