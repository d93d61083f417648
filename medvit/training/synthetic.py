"""A training on synthetic heads that uses a given time to the full, with only torch and MONAI.

`medvit train` and the bundles' ``train.json`` are the ways to train on studies and with metrics. This one is
for minutes of a borrowed device: samples are made there, a step waits for the host once, and what was learnt
is written every minute.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medvit.losses import LateralDiceCELoss
from medvit.networks.weights import load_weights
from medvit.studies.files import atomic_path
from medvit.synthesis import (
    HeadBank,
    SynthesisSettings,
    Synthesizer,
    brain_anatomy,
    find_label_maps,
    read_head_map,
)
from medvit.training.gradients import clipped_gradients, half_precision
from medvit.training.schedule import warm_cosine

_SAVE_EVERY = 60.0


class HeadTraining:
    """Steps on batches of synthetic heads.

    Parameters
    ----------
    network
        A `LateralSegmenter` of the table ``"brain"``, on its device.
    synthesizer, heads
        Generator of the samples, and the annotated heads that it uses, on the same device.
    batch_size
        Samples of a step.
    learning_rate
        Highest value, reached after a warm-up; it then falls to 0 along a cosine.
    seed
        Seed of the samples.
    """

    def __init__(
        self,
        network: nn.Module,
        synthesizer: Synthesizer,
        heads: HeadBank,
        *,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.network, self.synthesizer, self.heads = network, synthesizer, heads
        self.batch_size, self.learning_rate = batch_size, learning_rate
        #: The part that gives the channels that the loss reads; the network itself joins both.
        self.core: nn.Module = network.get_submodule("network")
        self.device = next(network.parameters()).device
        self.averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        self.loss = LateralDiceCELoss("brain", dice_weight=0.5).to(self.device)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = self.left_out = self.repeated = 0
        #: How often the gradient of a parameter was the first, nearest to the cause, that was not finite.
        self.causes: Counter[str] = Counter()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and targets (B, 1, X, Y, Z) of heads drawn by chance."""
        chosen = torch.randint(len(self.heads), (self.batch_size,), generator=self.generator).tolist()
        return self.synthesizer.batch(self.heads, chosen, self.generator)

    def step(self, fraction: float) -> float:
        """Take a step at a fraction of the time; return its loss, or NaN if the step is left out."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * warm_cosine(fraction)
        image, target = self.batch()

        def loss_of(half: bool) -> Tensor:
            with half_precision(self.device, half):
                channels = self.core(image)
            return self.loss(channels.float(), target)

        found = clipped_gradients(self.network, loss_of, 1.0, half=self.device.type == "cuda")
        self.steps += 1
        self.repeated += bool(found.causes)
        self.causes.update(found.causes[:1])
        if not found.finite:
            self.left_out += 1
            return math.nan
        self.optimizer.step()
        self.averaged.update_parameters(self.network)
        return found.loss

    def save(self, folder: Path) -> None:
        """Write ``weights.pt`` for the bundle, and ``checkpoint.pt``, from which a training continues."""
        weights = {name: value.half() if value.is_floating_point() else value
                   for name, value in self.averaged.module.state_dict().items()}  # fmt: skip
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
        }
        for name, content in (("weights.pt", weights), ("checkpoint.pt", state)):
            with atomic_path(folder / name) as path:
                torch.save(content, path)

    def resume(self, checkpoint: Path) -> None:
        """Continue from what another machine left, on this machine's schedule."""
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.steps = int(state["steps"])


def train_on_synthetic_heads(
    bundle: Path | str,
    label_maps: Path | str,
    output: Path | str,
    *,
    seconds: float,
    device: torch.device | str = "cpu",
    shape: tuple[int, int, int] = (128, 128, 128),
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    held_out: Sequence[str] = ("seg_09", "seg_14"),
    seed: int = 0,
) -> dict[str, Any]:
    """Train a brain bundle's network on heads made from label maps, for a given time.

    Parameters
    ----------
    bundle
        Folder of the bundle, whose weights are the start and whose voxels are trained on.
    label_maps
        Folder of annotated heads of 1 mm.
    output
        Folder for ``weights.pt``, ``checkpoint.pt`` and ``training.json``. Training resumes from
        a checkpoint found there.
    seconds
        Time to use, from the call to the written files.
    device
        Device that makes the samples and trains; in bf16 on a GPU.
    shape, batch_size
        Voxels of a sample and samples of a step.
    learning_rate
        Highest learning rate.
    held_out
        Parts of names of maps that are not learnt from.
    seed
        Seed of the samples.

    Returns
    -------
    dict
        Steps, steps left out for a gradient that is not finite, steps repeated in float32 and which gradients
        were not finite before, seconds, and the mean loss of each tenth of the time, as in
        ``training.json``.

    Raises
    ------
    StudyError
        If there are no label maps, or one cannot be read.
    WeightsError
        If the bundle's weights do not fit its network.
    """
    started = time.monotonic()
    bundle, output = Path(bundle), Path(output)
    network = bundle_network(bundle, device)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    anatomy = brain_anatomy()
    heads = [read_head_map(path, anatomy).to(device) for path in find_label_maps(label_maps, held_out)]
    settings = SynthesisSettings(shape=shape, spacing=float(config["spacing"][0]))
    training = HeadTraining(
        network,
        Synthesizer(anatomy, settings),
        HeadBank(heads),
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    if (output / "checkpoint.pt").exists():
        training.resume(output / "checkpoint.pt")
    tenths: list[list[float]] = [[] for _ in range(10)]
    begun = saved = time.monotonic()
    end, longest = started + seconds, 0.0
    while (now := time.monotonic()) + 2 * longest < end or not training.steps:
        fraction = min((now - begun) / max(end - begun, 1e-9), 1.0)
        tenths[min(int(10 * fraction), 9)].append(training.step(fraction))
        longest = max(longest, time.monotonic() - now) if training.steps > 3 else time.monotonic() - now
        if now - saved > _SAVE_EVERY:
            training.save(output)
            saved = now
    training.save(output)
    found = {
        "steps": training.steps,
        "left_out": training.left_out,
        "repeated": training.repeated,
        "not_finite": dict(training.causes),
        "seconds": round(time.monotonic() - started, 1),
        "losses": [_mean(losses) for losses in tenths],
    }
    (output / "training.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def bundle_network(bundle: Path, device: torch.device | str) -> nn.Module:
    """The network of a bundle with its weights, to be trained on.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    """
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    network: nn.Module = ConfigParser({"network": config["network_def"]}).get_parsed_content("network")
    return load_weights(network, bundle / "models" / "model.pt", device).train()


def _mean(losses: Sequence[float]) -> float | None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return round(sum(finite) / len(finite), 4) if finite else None
