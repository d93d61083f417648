"""`medvit pretrain`: an encoder from unlabelled studies, by self-supervision."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from medvit import __version__
from medvit.bundles import Bundle, open_bundle
from medvit.errors import MedvitError
from medvit.networks.published import read_checkpoint
from medvit.studies import write_json
from medvit.training.base import Base, Recipe
from medvit.training.encoder_file import PretrainingHeader, save_encoder
from medvit.training.gradients import clipped_gradients, half_precision
from medvit.training.masking import MaskedWindows, WindowSampler
from medvit.training.network import fitted
from medvit.training.plan import device_named
from medvit.training.pretraining_data import prepare_images
from medvit.training.pretraining_page import write_page
from medvit.training.pretraining_tasks import TASKS, MadeFor, make_task
from medvit.training.schedule import warm_cosine

_WARM_UP = 0.05
_SAVE_SECONDS = 120
_WATCH_BATCHES = 4


@dataclass(frozen=True)
class PretrainingChoices:
    """Choices of the user for a pre-training.

    Parameters
    ----------
    steps
        Optimiser steps, unless `minutes` is given.
    minutes
        Duration of the training; the learning rate then follows the clock.
    batch_size
        Windows of a step.
    learning_rate
        Highest learning rate of AdamW.
    task
        ``"masked"``: the network predicts masked cells; ``"mae"``: a plain vision transformer sees the other
        patches alone; ``"swin"``: Swin UNETR's rotation, contrast and inpainting.
    mask_ratio, cell
        Share of the cells that are masked, 0.6 by default and 0.75 of the patches of ``"mae"``; and their
        edge in voxels.
    patch_size
        Edges of a window in voxels; that of the bundle by default.
    start
        ``"weights"``: continue from the bundle's weights; ``"scratch"``: from random ones.
    watch_fraction
        Share of the patients whose studies are kept apart to watch the error.
    recipe
        File of a recipe whose network, window, spacing and scaling of intensities are taken.
    seed
        Seed of all random numbers.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    """

    steps: int = 1000
    minutes: float | None = None
    batch_size: int = 2
    learning_rate: float = 5e-4
    task: str = "masked"
    mask_ratio: float | None = None
    cell: int = 8
    patch_size: tuple[int, ...] | None = None
    start: str = "weights"
    watch_fraction: float = 0.1
    recipe: str = ""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise MedvitError(f"--task must be one of {', '.join(TASKS)}, not {self.task!r}")
        if self.task == "swin" and self.batch_size < 2:
            raise MedvitError("--task swin tells the windows of a step apart: --batch-size must be 2 or more")
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise MedvitError(f"--mask-ratio must lie between 0 and 1, not {self.mask_ratio}")
        if self.cell < 2:
            raise MedvitError(f"--cell must be 2 voxels or more, not {self.cell}")
        if self.start not in ("weights", "scratch"):
            raise MedvitError(f"--from must be weights or scratch, not {self.start!r}")
        if self.recipe and self.start == "weights":
            raise MedvitError("the bundle's weights do not fit the network of a --recipe: add --from scratch")


def pretrain_bundle(
    bundle: Bundle,
    inputs: Sequence[str],
    output: str | Path,
    choices: PretrainingChoices | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Pre-train the network of a bundle on unlabelled studies.

    See `medvit.training.pretraining_tasks` for what the network predicts. Parts that serve only this, such as
    a readout that gives voxels instead of labels, are left out of the result.

    Parameters
    ----------
    bundle
        Bundle whose network, preparation of studies and, unless `choices` say otherwise, weights are used.
    inputs
        Studies in any form that `medvit run` reads: files, folders, manifests, DICOM.
    output
        File of the encoder, ``.safetensors``; a page with pictures and the error is written beside it.
    choices
        Settings that override those of the bundle.
    resume
        Continue a pre-training that was interrupted.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    MedvitError
        If there are too few studies, they mix modalities, or the error is no longer a number.
    """
    choices, console = choices or PretrainingChoices(), console or Console(stderr=True)
    path = Path(output).absolute()
    work = path.with_name(f"{path.name}.pretraining")
    _refuse(path, work, resume)
    try:
        run = _Run(bundle, choices, path, work, console)
        run.prepare(inputs, resume)
        run.train(resume)
    except BaseException:
        if not (work / "last.pt").is_file():
            shutil.rmtree(work, ignore_errors=True)
        raise
    run.finish()
    shutil.rmtree(work)
    return path


def _refuse(path: Path, work: Path, resume: bool) -> None:
    if path.suffix != ".safetensors":
        raise MedvitError(f"{path}: the file of the encoder must end in .safetensors")
    if path.exists():
        raise MedvitError(f"{path} exists already: name another file")
    if resume and not (work / "settings.json").is_file():
        raise MedvitError(f"{work} holds no pre-training to resume; start one without --resume")
    if not resume and work.exists():
        raise MedvitError(f"{work} holds an interrupted pre-training: continue it with --resume or remove it")


class _Run:
    """One pre-training and its state."""

    def __init__(
        self, bundle: Bundle, choices: PretrainingChoices, path: Path, work: Path, console: Console
    ) -> None:
        self.bundle, self.choices, self.path, self.work, self.console = bundle, choices, path, work, console
        self.recipe = Recipe.read(choices.recipe) if choices.recipe else None
        base = Base.of_recipe(self.recipe) if self.recipe else Base.of_bundle(bundle)
        self.window = tuple(choices.patch_size or base.window)
        if len(self.window) != len(base.window):
            raise MedvitError(f"--patch-size takes {len(base.window)} edges for the network of {base.name}")
        self.device = device_named(choices.device)
        self.base = base
        self.step, self.seconds = 0, 0.0
        self.loss: dict[str, list[tuple[int, float]]] = {"training": [], "watched": []}

    def prepare(self, inputs: Sequence[str], resume: bool) -> None:
        """Read and prepare the studies, build the network and the samplers."""
        settings = json.loads(json.dumps(asdict(self.choices)))
        if resume:
            before = json.loads((self.work / "settings.json").read_text(encoding="utf-8"))
            kept = ("steps", "minutes", "device")
            if any(before[k] != v for k, v in settings.items() if k not in kept):
                raise MedvitError(f"{self.work} was begun with other settings; resume it with the same ones")
        self.work.mkdir(parents=True, exist_ok=True)
        self.prepared = prepare_images(self.bundle, inputs, self.work, self.console, self.recipe)
        write_json(self.work / "settings.json", settings)
        torch.manual_seed(self.choices.seed)
        channels = int(np.load(self.prepared.files[0], mmap_mode="r").shape[0])
        self.definition = fitted(self.base.network, channels, channels, self.window)
        c = self.choices
        made_for = MadeFor(self.base.network, channels, self.window, c.mask_ratio, c.cell)
        self.task = make_task(c.task, made_for)
        self.network = self.task.network
        if self.choices.start == "weights":
            self._carry_over()
        self.network.to(self.device)
        training, watched = self.prepared.split(self.choices.watch_fraction, self.choices.seed)
        self.training, self.watched = self._sampler(training, 0), self._sampler(watched, 1)
        self.console.print(
            f"{len(training)} studies to train on, {len(watched)} to watch, "
            f"windows of {' x '.join(map(str, self.window))} voxels",
            highlight=False,
        )

    def _sampler(self, files: list[Path], offset: int) -> WindowSampler | None:
        if not files:
            return None
        volumes = [torch.from_numpy(np.load(f, mmap_mode="c")) for f in files]
        seed = 2 * self.choices.seed + offset
        cell, ratio = self.choices.cell, self.task.mask_ratio
        return WindowSampler(volumes, self.window, cell=cell, mask_ratio=ratio, seed=seed)

    def _carry_over(self) -> None:
        """Fill the network from the bundle's weights, all but the readout."""
        given = {n.removeprefix("network."): v for n, v in read_checkpoint(self.bundle.weights).items()}
        own = self.network.state_dict()
        fits = {
            n: given[n].to(v.dtype)
            for n, v in own.items()
            if n not in self.task.left and n in given and given[n].shape == v.shape
        }
        self.network.load_state_dict({**own, **fits})
        self.console.print(
            f"{len(fits)} of {len(own) - len(self.task.left)} tensors taken from {self.bundle.name}",
            highlight=False,
        )

    def train(self, resume: bool) -> None:
        """Take steps until their number or the time is used up; the state is saved on the way."""
        optimiser = torch.optim.AdamW(
            self.network.parameters(), self.choices.learning_rate, weight_decay=0.01
        )
        checkpoint = self.work / "last.pt"
        if resume and checkpoint.is_file():
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]
        saved = time.monotonic()
        started = saved - self.seconds
        recent: list[float] = []
        try:
            while (fraction := self._fraction(time.monotonic() - started)) < 1:
                rate = warm_cosine(fraction, _WARM_UP)
                for group in optimiser.param_groups:
                    group["lr"] = rate * self.choices.learning_rate
                recent.append(self._take_step(optimiser))
                self.step += 1
                if len(recent) == max(self.choices.steps // 40, 5):
                    self._note(recent)
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self.seconds, saved = time.monotonic() - started, time.monotonic()
                    self._save(checkpoint, optimiser)
        except KeyboardInterrupt:
            self.seconds = time.monotonic() - started
            self._save(checkpoint, optimiser)
            raise MedvitError(
                f"interrupted after {self.step} steps; the same command with --resume continues"
            ) from None
        if recent:
            self._note(recent)

    def _fraction(self, seconds: float) -> float:
        if self.choices.minutes is not None:
            return seconds / (60 * self.choices.minutes)
        return self.step / self.choices.steps

    def _take_step(self, optimiser: torch.optim.Optimizer) -> float:
        assert self.training is not None
        self.network.train()
        training = self.training

        def loss_of(half: bool) -> Tensor:
            with half_precision(self.device, half):
                return self._loss(training, self.step)

        found = clipped_gradients(self.network, loss_of, 1.0, half=self.device.type == "cuda")
        if not found.finite:
            raise MedvitError(
                f"the error is not finite after {self.step} steps; start again with a lower --learning-rate"
            )
        optimiser.step()
        return found.loss

    def _loss(self, sampler: WindowSampler, step: int) -> Tensor:
        windows = self._on_device(sampler.batch(step, self.choices.batch_size))
        return self.task.loss(windows, torch.Generator().manual_seed(sampler.seed * 1_000_003 + step))

    def _on_device(self, windows: MaskedWindows) -> MaskedWindows:
        parts = (windows.target, windows.masked, windows.mask)
        return MaskedWindows(*(part.to(self.device) for part in parts))

    def _note(self, recent: list[float]) -> None:
        """Put the mean error since the last note, and that of the watched studies, on the curves."""
        self.loss["training"].append((self.step, sum(recent) / len(recent)))
        recent.clear()
        line = f"step {self.step}: error {self.loss['training'][-1][1]:.3f}"
        if self.watched is not None:
            self.network.eval()
            with torch.no_grad():
                errors = [float(self._loss(self.watched, n)) for n in range(_WATCH_BATCHES)]
            self.loss["watched"].append((self.step, sum(errors) / len(errors)))
            line += f", watched {self.loss['watched'][-1][1]:.3f}"
        self.console.print(line, highlight=False)

    def _save(self, checkpoint: Path, optimiser: torch.optim.Optimizer) -> None:
        partial = checkpoint.with_suffix(".partial")
        state = {
            "network": self.network.state_dict(), "optimiser": optimiser.state_dict(), "step": self.step,
            "seconds": self.seconds, "loss": self.loss,
        }  # fmt: skip
        torch.save(state, partial)
        partial.replace(checkpoint)

    def finish(self) -> None:
        """Write the encoder, its header and the page."""
        recipe = self.recipe
        spacing = recipe.spacing if recipe else None
        spacing = spacing or open_bundle(self.bundle).stated("spacing")
        header = PretrainingHeader(
            network=self.definition,
            base=self.base.name,
            start=self.choices.start,
            task=self.task.words,
            mask_ratio=self.task.mask_ratio,
            cell=self.task.cell,
            window=list(self.window),
            spacing=list(spacing) if isinstance(spacing, list) else None,
            modality=self.prepared.modality,
            studies=len(self.prepared.files),
            patients=len(set(self.prepared.patients)),
            studies_sha256=hashlib.sha256("\n".join(sorted(self.prepared.digests)).encode()).hexdigest(),
            steps=self.step,
            seed=self.choices.seed,
            medvit=__version__,
            loss=self.loss,
            prefixes=list(self.task.prefixes),
        )
        sampler = self.watched or self.training
        assert sampler is not None
        self.network.eval()
        with torch.no_grad():
            shown, prediction = self.task.shown(self._on_device(sampler.batch(10**6, 3)))
            windows = MaskedWindows(shown.target.cpu(), shown.masked.cpu(), shown.mask.cpu())
        write_page(self.path.with_suffix(".html"), header, windows, prediction.cpu())
        save_encoder(self.path, self.task.encoder(), header)
        self.console.print(f"{self.path}: {header.sentence()}", soft_wrap=True, highlight=False)
