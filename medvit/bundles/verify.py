"""Verification that another engine gives a bundle's answer, with timings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles.backend import MOST_OF_RANGE, MOST_VOXELS, passes
from medvit.bundles.find import Bundle
from medvit.bundles.segmentation import prepare, read
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.errors import MedvitError
from medvit.studies import Study, only_study

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Verification:
    """Comparison of an engine with torch in float32, on windows of a bundle.

    Parameters
    ----------
    bundle, version, backend
        The bundle, its version and the backend that was verified.
    windows
        Number of windows.
    voxels_differing
        Share of voxels whose class differs; 0 for a bundle that restores images.
    logits_differing
        Largest difference of a value of the network's output, as a share of the range of its values.
    seconds, torch_seconds
        CPU seconds per window, medians of rounds in which the two take turns.
    threads
        Number of threads.
    """

    bundle: str
    version: str
    backend: str
    windows: int
    voxels_differing: float
    logits_differing: float
    seconds: float
    torch_seconds: float
    threads: int

    @property
    def same_answer(self) -> bool:
        """Whether the labels and the logits are those of torch, within the bounds of `medvit verify`."""
        return passes(asdict(self))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for ``medvit#backends`` of the bundle's metadata."""
        return asdict(self) | {"same_answer": self.same_answer}

    def __str__(self) -> str:
        verdict = "the same answer as torch" if self.same_answer else "another answer than torch"
        return (
            f"{self.bundle} {self.version}, {self.backend}: {verdict}\n"
            f"  voxels with another label  {self.voxels_differing:.1e}  (at most {MOST_VOXELS:.0e})\n"
            f"  logits, share of range     {self.logits_differing:.1e}  (at most {MOST_OF_RANGE:.0e})\n"
            f"  CPU seconds a window       {self.seconds:.3f}  (torch {self.torch_seconds:.3f}, "
            f"{self.windows} windows, {self.threads} threads)"
        )


def verify_backend(
    bundle: Bundle, backend: str, study: str | Path | None = None, *, windows: int = 4, rounds: int = 3
) -> Verification:
    """Run the same windows through torch in float32 and through another engine.

    Parameters
    ----------
    bundle
        The bundle.
    backend
        ``"openvino"`` or ``"onnxruntime"``.
    study
        A study whose windows are taken, spread over the image; windows of smooth noise by default.
    windows
        Number of windows.
    rounds
        How many times each window is timed.

    Raises
    ------
    MedvitError
        If the backend is torch itself, is not installed or cannot run the network, or if the bundle is not
        intended for the study.
    """
    import torch

    from medvit.inference import Execution
    from medvit.inference.backends import checked_backend, require
    from medvit.inference.conversion import engine
    from medvit.inference.graphs import first_level

    if checked_backend(backend) == "torch":
        raise MedvitError("torch is the reference for the others; give another backend")
    require(backend)
    opened = open_bundle(bundle, device="$torch.device('cpu')")
    network = opened.part("network")
    seen = _noise(opened, windows) if study is None else windows_of(opened, [study], windows)
    differing = voxels = 0
    furthest, low, high = 0.0, float("inf"), float("-inf")
    taken: dict[str, list[float]] = {backend: [], "torch": []}
    with Execution().running([network]):
        other = engine(network, seen[0].shape[1:], backend)
        for window in seen:
            expected, found = first_level(network(window)), other(window)
            if bundle.label_table is not None:
                differing += int((expected.argmax(1) != found.argmax(1)).sum())
            voxels += expected[:, 0].numel()
            furthest = max(furthest, float((expected - found).abs().max()))
            low, high = min(low, float(expected.min())), max(high, float(expected.max()))
            for _ in range(rounds):
                for name, run in (("torch", network), (backend, other)):
                    taken[name].append(_cpu_seconds(run, window))
    seconds = {name: round(statistics.median(values), 3) for name, values in taken.items()}
    return Verification(
        bundle.name, bundle.version, backend, len(seen), differing / voxels,
        furthest / max(high - low, torch.finfo().tiny), seconds[backend], seconds["torch"],
        torch.get_num_threads(),
    )  # fmt: skip


def windows_of(opened: OpenBundle, inputs: Sequence[Study | str | Path], most: int) -> list[Tensor]:
    """Windows (B, C, *roi_size) as the bundle's network gets them, the same number of each study.

    They are spread evenly over those of a study that are not of one value throughout.

    Parameters
    ----------
    opened
        The bundle.
    inputs
        Studies, or paths that hold one each.
    most
        Number of windows of all studies together.

    Raises
    ------
    StudyError
        If a study cannot be read, or lies outside the bundle's scope.
    MedvitError
        If no window holds an image.
    """
    import torch

    channels = int(opened.bundle.metadata["network_data_format"]["outputs"]["pred"]["num_channels"])
    found: list[Tensor] = []
    for number, path in enumerate(inputs):
        study = read(path if isinstance(path, Study) else only_study(path), opened.part("gate", None))
        image = prepare(study, opened.part("preprocessing"))
        seen: list[Tensor] = []

        def note(window: Tensor, seen: list[Tensor] = seen) -> Tensor:
            if window.min() < window.max():
                seen.append(window.clone())
            return torch.zeros(len(window), channels, *window.shape[2:])

        opened.part("inferer")(image[None], note)
        share = most // len(inputs) + (number < most % len(inputs))
        found += [seen[i] for i in _spread(len(seen), share)]
    if not found:
        raise MedvitError("no window of the studies holds an image; give studies that the bundle is for")
    return found


def _spread(count: int, wanted: int) -> Iterator[int]:
    wanted = min(count, wanted)
    return (i * count // wanted + count // (2 * wanted) for i in range(wanted))


def _noise(opened: OpenBundle, count: int) -> list[Tensor]:
    """Windows of smooth noise in 0..1."""
    import torch
    import torch.nn.functional as F

    from medvit.bundles.export import window_shape

    shape = window_shape(opened)
    mode = {2: "bilinear", 3: "trilinear"}[len(shape) - 2]
    random = torch.Generator().manual_seed(0)
    coarse = [max(n // 8, 2) for n in shape[2:]]
    grains = (torch.rand(*shape[:2], *coarse, generator=random) for _ in range(count))
    return [F.interpolate(grain, shape[2:], mode=mode) for grain in grains]


def _cpu_seconds(run: Callable[[Tensor], Any], window: Tensor) -> float:
    started = time.process_time()
    run(window)
    return time.process_time() - started
