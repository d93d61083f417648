"""`medvit pretrain`: an encoder from unlabelled studies, by self-supervision."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from medvit import __version__
from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.networks.published import read_checkpoint
from medvit.studies import atomic_path, write_json
from medvit.training.base import Base, Recipe
from medvit.training.choices import device_named
from medvit.training.encoder_file import PretrainingHeader, save_encoder
from medvit.training.gradients import clipped_gradients, half_precision
from medvit.training.masking import MaskedWindows, WindowSampler
from medvit.training.network import fitted
from medvit.training.pretraining_choices import PretrainingChoices
from medvit.training.pretraining_data import Preparation, prepare_images
from medvit.training.pretraining_page import write_page
from medvit.training.pretraining_patches import make_task
from medvit.training.pretraining_tasks import MadeFor
from medvit.training.schedule import warm_cosine
from medvit.training.windows import affordable_on, batch_for, check_window, lacks_memory, window_for
from medvit.training.workspace import refuse_other_settings

_WARM_UP = 0.05
_SAVE_SECONDS = 120
_WATCH_BATCHES = 4


def pretrain_bundle(
    base: Bundle | Base,
    inputs: Sequence[str],
    output: str | Path,
    choices: PretrainingChoices | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Pre-train the network of a bundle, or one by name, on unlabelled studies.

    See `medvit.training.pretraining_tasks` and `pretraining_patches` for what the network predicts. Parts
    that serve only this, such as a readout that gives voxels instead of labels, are left out of the result.

    Parameters
    ----------
    base
        Bundle whose network, preparation of studies and, unless `choices` say otherwise, weights are used;
        or what `find_base` gives for the name of a network.
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
        If there are too few studies, they mix modalities or contrasts, or the error is no longer a number.
    """
    choices, console = choices or PretrainingChoices(), console or Console(stderr=True)
    base = Base.of_bundle(base) if isinstance(base, Bundle) else base
    path = Path(output).absolute()
    work = path.with_name(f"{path.name}.pretraining")
    _refuse(path, work, resume)
    try:
        run = _Run(base, choices, path, work, console)
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
    for file in (path, path.with_suffix(".html")):
        if file.exists():
            raise MedvitError(f"{file} exists already: name another file")
    if resume and not (work / "settings.json").is_file():
        remove = "remove it and " if work.exists() else ""
        raise MedvitError(f"{work} holds no pre-training to resume; {remove}start one without --resume")
    if not resume and work.exists():
        raise MedvitError(f"{work} holds an interrupted pre-training: continue it with --resume or remove it")


class _Run:
    """One pre-training and its state."""

    def __init__(
        self, base: Base, choices: PretrainingChoices, path: Path, work: Path, console: Console
    ) -> None:
        self.bundle, self.choices, self.path, self.work, self.console = (
            base.weights_of, choices, path, work, console,
        )  # fmt: skip
        self.recipe = Recipe.read(choices.recipe) if choices.recipe else None
        if self.bundle is None and (self.recipe or choices.start == "weights"):
            raise MedvitError(f"--recipe and --from weights need a bundle, and {base.name} is not one")
        self.base = Base.of_recipe(self.recipe) if self.recipe else base
        self.start = choices.start or ("weights" if self.bundle and not self.recipe else "scratch")
        self.window = tuple(choices.patch_size or self.base.window)
        self.device = device_named(choices.device)
        self.step, self.seconds = 0, 0.0
        self.loss: dict[str, list[tuple[int, float]]] = {"training": [], "watched": []}

    def prepare(self, inputs: Sequence[str], resume: bool) -> None:
        """Read and prepare the studies, build the network and the samplers."""
        c = self.choices
        if self.bundle:
            preparation = Preparation.of_bundle(self.bundle, inputs, self.recipe, c.spacing)
        else:
            preparation = Preparation.of_network(inputs, self.base.slicewise, c.spacing)
        self.spacing, self.slice_axis = preparation.spacing, preparation.slice_axis
        settings = asdict(c) | {"base": self.base.name, "network": self.base.network}
        settings = json.loads(json.dumps(settings))
        if resume:
            # Another device, or another amount of free memory, would lead to another window.
            self.window = tuple(self._compare(settings)["window"])
        else:
            self._fit_window(preparation.shape)
        self.work.mkdir(parents=True, exist_ok=True)
        self.prepared = prepare_images(preparation, self.work, self.console)
        settings |= {"window": list(self.window), "studies": self.prepared.digest}
        if resume:
            self._compare(settings)
        write_json(self.work / "settings.json", settings)
        torch.manual_seed(c.seed)
        channels = int(np.load(self.prepared.files[0], mmap_mode="r").shape[0])
        self.definition = fitted(self.base.network, channels, channels, self.window)
        made_for = MadeFor(self.base.network, channels, self.window, c.mask_ratio, c.cell, self.slice_axis)
        self.task = make_task(c.task, made_for)
        self.network = self.task.network
        self.batch_size = c.batch_size or (2 if len(self.window) == 3 else batch_for(self.window))
        if c.task == "masked":
            check_window(self.base.network, self.window, self.base.window, self.batch_size)
        if self.start == "weights":
            self._carry_over()
        self.network.to(self.device)
        training, watched = self.prepared.split(c.watch_fraction, c.seed)
        self.training, self.watched = self._samplers(training, 0), self._samplers(watched, 1)
        if len(self.training) < len(self.task.windows):
            raise MedvitError(
                f"--task {c.task} learns from slices and volumes, but no study has "
                f"{self.task.least_slices} slices or more"
            )
        self.console.print(
            f"{len(training)} studies to train on, {len(watched)} to watch, "
            f"windows of {self._sizes()} voxels",
            highlight=False,
        )

    def _sizes(self) -> str:
        return " and ".join(" x ".join(map(str, edges)) for edges in self.task.windows)

    def _fit_window(self, shape: tuple[int, ...] | None) -> None:
        """The window as `medvit train` takes it: fitted to the studies, or three edges also of a slice."""
        if self.choices.patch_size is None and shape and self.choices.task != "swin":
            whole = [
                n for axis, n in enumerate(shape) if not (self.base.slicewise and axis == self.slice_axis)
            ]
            own, network = self.base.window, self.base.network
            affordable = affordable_on(self.device, network, own, (self.choices.batch_size or 2, 1))
            self.window = window_for(network, whole, own, affordable)
        if self.base.slicewise and len(self.window) == 3:
            self.window = tuple(n for axis, n in enumerate(self.window) if axis != self.slice_axis)
        if len(self.window) != len(self.base.window):
            raise MedvitError(
                f"--patch-size takes {len(self.base.window)} edges for the network of {self.base.name}"
            )

    def _compare(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings at the start; other ones are refused, apart from the duration and the device."""
        before = json.loads((self.work / "settings.json").read_text(encoding="utf-8"))
        compared = settings.keys() - {"steps", "minutes", "device"}
        refuse_other_settings(
            self.work, *({name: of.get(name) for name in compared} for of in (before, settings))
        )
        return before

    def _samplers(self, files: list[Path], offset: int) -> list[WindowSampler]:
        """One sampler for each kind of window; none of a kind that no study has."""
        volumes = [torch.from_numpy(np.load(f, mmap_mode="c")) for f in files]
        samplers = []
        for edges in self.task.windows:
            # With edges of two kinds, a study with too few slices lends slices alone.
            least = self.task.least_slices if len(edges) == 3 else 1
            deep = [volume for volume in volumes if volume.shape[1 + self.slice_axis] >= least]
            if deep:
                samplers.append(
                    WindowSampler(
                        deep, edges, cell=self.task.cell or 1, mask_ratio=self.task.mask_ratio,
                        slice_axis=self.slice_axis, seed=2 * self.choices.seed + offset,
                    )
                )  # fmt: skip
        return samplers

    def _carry_over(self) -> None:
        """Fill the network from the bundle's weights, all but the readout."""
        assert self.bundle is not None
        given = {n.removeprefix("network."): v for n, v in read_checkpoint(self.bundle.weights).items()}
        fits = self.task.taken(given)
        self.network.load_state_dict({**self.network.state_dict(), **fits})
        self.console.print(
            f"{len(fits)} of {len(self.task.shared)} tensors taken from {self.bundle.name}", highlight=False
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
        self.seconds = time.monotonic() - started
        self._save(checkpoint, optimiser)  # what follows may find no space

    def _fraction(self, seconds: float) -> float:
        if self.choices.minutes is not None:
            return seconds / (60 * self.choices.minutes)
        return self.step / self.choices.steps

    def _take_step(self, optimiser: torch.optim.Optimizer) -> float:
        self.network.train()

        def loss_of(half: bool) -> Tensor:
            with half_precision(self.device, half):
                return self._loss(self.training, self.step)

        try:
            found = clipped_gradients(self.network, loss_of, 1.0, half=self.device.type == "cuda")
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            raise MedvitError(
                f"{self.batch_size} window(s) of {self._sizes()} voxels a step do not fit into the memory of "
                f"{self.device}; start again with a smaller --batch-size or --patch-size"
            ) from error
        if not found.finite:
            raise MedvitError(
                f"the error is not finite after {self.step} steps; start again with a lower --learning-rate"
            )
        optimiser.step()
        return found.loss

    def _loss(self, samplers: Sequence[WindowSampler], step: int) -> Tensor:
        sampler = samplers[step % len(samplers)]
        windows = self._on_device(sampler.batch(step, self.batch_size))
        return self.task.loss(windows, torch.Generator().manual_seed(sampler.seed * 1_000_003 + step))

    def _on_device(self, windows: MaskedWindows) -> MaskedWindows:
        parts = (windows.target, windows.masked, windows.mask)
        return MaskedWindows(*(part.to(self.device) for part in parts))

    def _note(self, recent: list[float]) -> None:
        """Put the mean error since the last note, and that of the watched studies, on the curves."""
        self.loss["training"].append((self.step, sum(recent) / len(recent)))
        recent.clear()
        line = f"step {self.step}: error {self.loss['training'][-1][1]:.3f}"
        if self.watched:
            self.network.eval()
            with torch.no_grad():
                errors = [float(self._loss(self.watched, n)) for n in range(_WATCH_BATCHES)]
            self.loss["watched"].append((self.step, sum(errors) / len(errors)))
            line += f", watched {self.loss['watched'][-1][1]:.3f}"
        self.console.print(line, highlight=False)

    def _save(self, checkpoint: Path, optimiser: torch.optim.Optimizer) -> None:
        state = {
            "network": self.network.state_dict(), "optimiser": optimiser.state_dict(), "step": self.step,
            "seconds": self.seconds, "loss": self.loss,
        }  # fmt: skip
        with atomic_path(checkpoint) as partial, partial.open("wb") as file:
            torch.save(state, file)

    def finish(self) -> None:
        """Write the encoder, its header and the page."""
        header = PretrainingHeader(
            network=self.definition,
            base=self.base.name,
            start=self.start,
            task=self.task.words,
            mask_ratio=self.task.mask_ratio,
            cell=self.task.cell,
            window=list(self.window),
            spacing=self.spacing,
            modality=self.prepared.modality,
            studies=len(self.prepared.files),
            patients=len(set(self.prepared.patients)),
            studies_sha256=self.prepared.digest,
            steps=self.step,
            seed=self.choices.seed,
            medvit=__version__,
            loss=self.loss,
            prefixes=list(self.task.prefixes),
        )
        sampler = (self.watched or self.training)[0]
        self.network.eval()
        with torch.no_grad():
            shown, prediction = self.task.shown(self._on_device(sampler.batch(10**6, 3)))
            windows = MaskedWindows(shown.target.cpu(), shown.masked.cpu(), shown.mask.cpu())
        page = self.path.with_suffix(".html")
        try:
            write_page(page, header, windows, prediction.cpu())
            save_encoder(self.path, self.task.encoder(), header)
        except BaseException:
            page.unlink(missing_ok=True)
            raise
        self.console.print(f"{self.path}: {header.sentence()}", soft_wrap=True, highlight=False)
