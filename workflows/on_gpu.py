"""Ten minutes of a GPU, used to the end: check, measure, train.

    python workflows/on_gpu.py --minutes 10 [--output FOLDER] [--label-maps FOLDER] [--train BUNDLE]

First the labels of a small study are compared between the CPU and the GPU, then inference and engine are
timed beside MONAI's, a bundle from file to file, a training step, and each network beside its published form.
What is left of the time trains a brain bundle on synthetic heads from FOLDER (without one nothing is
trained). Results go to the output folder as they come: ``report.md`` with a table of the targets,
``weights.pt`` (averaged weights as the bundle takes them) and ``training.json``. It needs torch, numpy,
scipy, monai and nibabel, runs in one process, and ends in time. Exit code 1 says that labels differ between
CPU and GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def _attach(
    package: str, submodules: Iterable[str] = (), submod_attrs: dict[str, list[str]] | None = None
) -> tuple[Any, Any, list[str]]:
    """What lazy_loader's function does, for machines on which it is not installed."""
    homes = {name: module for module, names in (submod_attrs or {}).items() for name in names}
    known = sorted({*homes, *submodules})

    def load(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in known:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package} has no attribute {name}")

    return load, lambda: known, known


try:
    import lazy_loader  # noqa: F401
except ModuleNotFoundError:
    sys.modules["lazy_loader"] = types.ModuleType("lazy_loader")
    sys.modules["lazy_loader"].attach = _attach  # type: ignore[attr-defined]

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from monai.inferers import SlidingWindowInferer  # noqa: E402
from monai.networks.nets import SwinUNETR as StockSwinUNETR  # noqa: E402
from networks import cases, first, substituted  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from medvit.bundles import find_bundle, open_bundle, segment  # noqa: E402
from medvit.inference import Execution, StreamingWindowInferer  # noqa: E402
from medvit.networks import SegFormer3D, SwinUNETR  # noqa: E402
from medvit.studies import write_label_map  # noqa: E402
from medvit.synthesis import HeadBank, SynthesisSettings, Synthesizer, brain_anatomy  # noqa: E402
from medvit.synthesis.atlas import HeadMap  # noqa: E402
from medvit.training.synthetic import HeadTraining, bundle_network, train_on_synthetic_heads  # noqa: E402

# The most that each measurement should come to: seconds, or a share of MONAI's.
TARGETS = {
    "SegFormer3D, float32, 4 at once: time": 0.8,
    "SegFormer3D, bf16, 4 at once: time": 0.8,
    "SwinUNETR 48, float32, 1 at once: time": 0.8,
    "SwinUNETR 48, float32, 4 at once: time": 0.8,
    "engine alone, 14 classes, float32, 4 at once: time": 1.0,
    "engine alone, 104 classes, float32, 4 at once: time": 1.0,
    "engine alone, 14 classes, float32, 4 at once: memory": 0.5,
    "engine alone, 104 classes, float32, 4 at once: memory": 0.5,
    "file to file: s": 1.5,
    "training step: s": 0.06,
}
# Voxels that may differ between a CPU and a GPU in float32, whose sums are taken in another order.
ALLOWED = 1e-4


class Bands(nn.Module):
    """A network that costs next to nothing: logits of bands of intensity."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, 1, classes).reshape(1, -1, 1, 1, 1))

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of windows (B, 1, X, Y, Z)."""
        return -(windows - self.centres).abs()


class Session:
    """A deadline, a device, and a report that is written as it grows."""

    def __init__(self, minutes: float, device: str, output: Path, tiny: bool) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.device, self.output, self.tiny = torch.device(device), output, tiny
        self.lines: list[str] = []
        #: What was measured, by the names of `TARGETS` among others.
        self.measured: dict[str, float] = {}
        #: Seconds below which no further measurement begins.
        self.reserve = 1.0 if tiny else 30.0
        output.mkdir(parents=True, exist_ok=True)
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        self.say(f"# {name}, torch {torch.__version__}\n")

    @property
    def left(self) -> float:
        """Seconds until everything must be written."""
        return self.end - time.monotonic()

    def say(self, line: str) -> None:
        """Print a line and keep it in the report."""
        print(line, flush=True)
        self.lines.append(line)
        (self.output / "report.md").write_text("\n".join(self.lines) + "\n")

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], repeats: int = 3) -> float:
        """Median wall time after a first call that is not counted."""
        run()
        times = []
        for _ in range(repeats):
            self.wait()
            started = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def peak(self, run: Callable[[], object]) -> float:
        """MB that `run` holds at most over what is held before; 0 on a CPU."""
        if self.device.type != "cuda":
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20


def image_of(size: tuple[int, ...]) -> Tensor:
    """A smooth random image (1, 1, X, Y, Z) in 0..1."""
    coarse = torch.rand(1, 1, *(n // 8 for n in size), generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=size, mode="trilinear")


def segmenters(session: Session, classes: int = 14) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Networks with equal weights, ours and the one to compare with."""
    torch.manual_seed(0)
    width = 12 if session.tiny else 48
    swin, stock = SwinUNETR(1, classes, feature_size=width), StockSwinUNETR(1, classes, feature_size=width)
    stock.load_state_dict(swin.state_dict())
    segformer = SegFormer3D(1, classes)
    pairs = {"SegFormer3D": (segformer, segformer), f"SwinUNETR {width}": (swin, stock)}
    return {name: (ours.eval(), theirs.eval()) for name, (ours, theirs) in pairs.items()}


def identity(session: Session) -> bool:
    """Whether a GPU, with and without recorded launches, gives the labels of the CPU."""
    session.say("## Labels, CPU against device\n\n| case | voxels that differ |\n|---|---|")
    image, sound = image_of((64, 96, 64)), True
    for name, (network, _) in segmenters(session).items():
        infer = partial(StreamingWindowInferer, 64, 0.5, maps=("entropy",))
        expected = infer(execution=Execution(device="cpu"))(image, network.cpu())["labels"]
        for graphs in (False, True):
            execution = Execution(device=session.device, tf32=False, graphs=graphs)
            inferer = infer(execution=execution)
            found = inferer(image.to(session.device), network.to(session.device))["labels"].cpu()
            share = (found != expected).float().mean().item()
            sound &= share <= ALLOWED
            notes = "; ".join(inferer.report.fallbacks)
            session.say(f"| {name}, {'graphs' if graphs else 'plain'} {notes} | {share:.1e} |")
    return sound


def inference(session: Session) -> None:
    """Ours and MONAI's sliding window in turn."""
    session.say("\n## Inference\n\n| case | ours s | MONAI s | ratio | ours MB | MONAI MB | differ |")
    session.say("|---|---|---|---|---|---|---|")
    size, roi = ((64, 48, 32), (64, 32, 32)) if session.tiny else ((256, 256, 192), (96, 96, 96))
    image = image_of(size).to(session.device)

    def ours(network: nn.Module, amp: bool, batch: int) -> Tensor:
        execution = Execution(device=session.device, amp="bf16" if amp else None)
        return StreamingWindowInferer(roi, 0.5, batch, execution=execution)(image, network)

    @torch.inference_mode()
    def theirs(network: nn.Module, amp: bool, batch: int) -> Tensor:
        with torch.autocast(session.device.type, torch.bfloat16, enabled=amp):
            logits = SlidingWindowInferer(roi, batch, 0.5, mode="gaussian")(image, network)
        return logits.argmax(1, keepdim=True).to(torch.uint8)

    engine = {f"engine alone, {n} classes": (Bands(n), Bands(n)) for n in (14, 104)}
    runs = [(name, pair, False, 4) for name, pair in engine.items()]
    for name, pair in segmenters(session).items():
        runs += [(name, pair, amp, batch) for amp in (False, True) for batch in (1, 4)]
    for name, (own, stock), amp, batch in runs:
        if session.left < session.reserve:
            break
        a, b = partial(ours, own, amp, batch), partial(theirs, stock, amp, batch)
        own.to(session.device), stock.to(session.device)
        differ = (a() != b()).float().mean().item()
        mine, other = session.seconds(a, 2), session.seconds(b, 2)
        what = f"{name}, {'bf16' if amp else 'float32'}, {batch} at once"
        times, peaks = f"{mine:.3f} | {other:.3f} | {mine / other:.2f}", (session.peak(a), session.peak(b))
        session.say(f"| {what} | {times} | {peaks[0]:.0f} | {peaks[1]:.0f} | {differ:.1e} |")
        session.measured[f"{what}: time"] = mine / other
        if peaks[1]:
            session.measured[f"{what}: memory"] = peaks[0] / peaks[1]


def file_to_file(session: Session, bundle: str) -> None:
    """A head of 1 mm from its file to the file of its labels, with the network loaded."""
    edge = 4.0 if session.tiny else 1.0
    shape = tuple(int(n / edge) for n in (184, 224, 192))
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = torch.stack(axes).square().sum(0) < 0.8
    texture = image_of(tuple(n // 8 * 8 for n in shape))[0, 0]
    texture = F.interpolate(texture[None, None], size=shape, mode="trilinear")[0, 0]
    voxels = (inside * (200 + 600 * texture)).numpy()
    head, labels = session.output / "head.nii.gz", session.output / "labels.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([edge, edge, edge, 1.0])), head)
    small = {"spacing": [edge] * 3, "roi_size": [32] * 3} if session.tiny else {}
    device = f"$torch.device({str(session.device)!r})"
    opened = open_bundle(find_bundle(bundle), input=[], device=device, force=True, **small)
    stages: dict[str, float] = {}

    def run() -> None:
        result = segment(opened, head)
        assert result.table is not None, "a brain bundle segments"
        stages.update(result.seconds)
        write_label_map(labels, result.table.to_files(result.voxels), result.study)

    session.measured["file to file: s"] = seconds = session.seconds(run)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in stages.items())
    session.say(f"\n## File to file\n\n{bundle}, {shape} voxels of {edge:g} mm: {seconds:.3f} s ({listed})")


def training_step(session: Session, bundle: str) -> None:
    """A step of the flagship's training on heads that are made on the device: blocks of tissue."""
    edge, count = (32, 2) if session.tiny else (128, 8)
    torch.manual_seed(0)
    anatomy = brain_anatomy()

    def blocks(most: int) -> Tensor:
        coarse = torch.randint(most, (1, 1, 20, 24, 20)).float()
        return F.interpolate(coarse, scale_factor=8, mode="nearest")[0, 0].to(torch.uint8)

    head = HeadMap(blocks(len(anatomy.tissues)), blocks(31), torch.tensor([80.0, 96.0, 80.0]))
    settings = SynthesisSettings(shape=(edge,) * 3, spacing=1.0)
    training = HeadTraining(
        bundle_network(ROOT / "bundles" / bundle, session.device),
        Synthesizer(anatomy, settings),
        HeadBank([head.to(session.device)]),
        batch_size=count,
        learning_rate=1e-4,
        seed=0,
    )
    repeats = 2 if session.tiny else 12
    session.measured["training step: s"] = seconds = session.seconds(lambda: training.step(0.5), repeats)
    making, peak = session.seconds(training.batch, repeats), session.peak(lambda: training.step(0.5))
    session.say(
        f"\n## Training step\n\n{bundle}, {count} windows of {edge}^3: {1000 * seconds:.1f} ms, of which "
        f"{1000 * making:.1f} ms make them; {peak:.0f} MB; of {training.steps} steps {training.repeated} "
        f"repeated in float32 ({dict(training.causes)}), {training.left_out} left out"
    )


def targets(session: Session) -> None:
    """What was measured beside what it should come to."""
    session.say("\n## Targets\n\n| what | target | measured | |\n|---|---|---|---|")
    for name, most in TARGETS.items():
        value = session.measured.get(name)
        verdict = "not measured" if value is None else "reached" if value <= most else "missed"
        session.say(f"| {name} | {most} | {'' if value is None else f'{value:.3f}'} | {verdict} |")


def networks(session: Session) -> None:
    """One forward pass of each network beside its published form."""
    session.say(
        "\n## Networks\n\n| network | precision | ours ms | published ms | ratio |\n|---|---|---|---|---|"
    )
    for case in cases():
        if session.left < session.reserve:
            break
        try:
            for row in _network_rows(session, case):
                session.say(row)
        except (RuntimeError, ValueError) as error:
            session.say(f"| {case.name} | not measured: {str(error).partition(chr(10))[0][:90]} | | | |")


def _network_rows(session: Session, case: Any) -> Iterator[str]:
    torch.manual_seed(0)
    own = case.build().eval()
    other = own if case.other is None else case.other(own).eval()
    own, other = own.to(session.device), other.to(session.device)
    inputs = tuple(x.to(session.device) for x in case.inputs())

    @torch.inference_mode()
    def run(network: nn.Module, amp: bool, substitutes: tuple[Any, ...] = ()) -> Tensor:
        with torch.autocast(session.device.type, torch.bfloat16, enabled=amp), substituted(substitutes):
            return first(network(*inputs))

    for amp in (False, True):
        mine = 1000 * session.seconds(partial(run, own, amp))
        theirs = float("nan")
        if case.published:
            theirs = 1000 * session.seconds(partial(run, other, amp, case.substitutes), 2)
        precision = "bf16" if amp else "float32"
        yield f"| {case.name} | {precision} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} |"


@contextmanager
def section(session: Session, name: str) -> Iterator[None]:
    """One part; what fails in it is said and costs only that part."""
    started = time.monotonic()
    try:
        yield
    except Exception as error:
        session.say(f"\n{name} ended early: {type(error).__name__}: {error}")
    session.say(f"\n{name}: {time.monotonic() - started:.0f} s, {session.left:.0f} s left\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the parts in turn; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--output", type=Path, default=Path("out/on_gpu"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--label-maps", type=Path, help="folder of annotated heads, 1 mm, to train on")
    parser.add_argument("--train", default="segformer3d_brain", help="bundle that is trained on")
    parser.add_argument("--tiny", action="store_true", help="small images and networks, to try the script")
    parser.add_argument("--skip", nargs="*", default=[], choices=["inference", "files", "step", "networks"])
    options = parser.parse_args(arguments)
    session = Session(options.minutes, options.device, options.output, options.tiny)
    sound = False
    with section(session, "Identity"):
        sound = identity(session)
    parts: dict[str, Callable[[], None]] = {
        "inference": partial(inference, session),
        "files": partial(file_to_file, session, options.train),
        "step": partial(training_step, session, options.train),
        "networks": partial(networks, session),
    }
    for name in (name for name in parts if name not in options.skip):
        with section(session, name.capitalize()):
            parts[name]()
    targets(session)
    if options.label_maps is not None:
        with section(session, "Training"):
            done = train_on_synthetic_heads(
                ROOT / "bundles" / options.train,
                options.label_maps,
                options.output,
                seconds=session.left - session.reserve / 2,
                device=session.device,
                shape=(32, 32, 32) if options.tiny else (128, 128, 128),
                batch_size=2 if options.tiny else 8,
            )
            session.say(json.dumps(done))
    session.say("Labels agree." if sound else "Labels differ between CPU and device, or were not compared.")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
