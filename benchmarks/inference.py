"""Streaming inference against MONAI, nnU-Net v2 and TorchIO: time, memory and agreement, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/inference.py --rounds 3 [--image T1.nii.gz] [--cases windows ...]

Peers that are not installed are left out. Every case is one interleaved run; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import _pipelines as pipelines
import nibabel as nib
import numpy as np
import torch
from _measure import anonymous_peak_of, in_own_process, interleaved, peak_of, ratio, status
from monai.data import MetaTensor
from monai.networks.nets import SwinUNETR as StockSwinUNETR
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from medvit.inference import Execution, Flips, InferenceReport, StreamingWindowInferer, Volume
from medvit.inference.backends import BACKENDS, TITLES
from medvit.inference.backends import installed as engine_installed
from medvit.inference.predict import Predictor
from medvit.networks import SegFormer3D, SwinUNETR
from medvit.studies import Grid

ROI = (96, 96, 96)
Row = tuple[str, str, str]


class Bands(nn.Module):
    """A network that costs next to nothing: logits of `classes` bands of intensity."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        centres = torch.linspace(0, 1, classes).reshape(1, -1, 1, 1, 1)
        self.register_buffer("centres", centres)

    def forward(self, windows: Tensor) -> Tensor:
        return (windows * self.centres).sub_(self.centres.square() / 2)


def phantom(shape: tuple[int, ...], spacing: float = 1.0, seed: int = 0) -> MetaTensor:
    """A smooth random image (1, X, Y, Z) in 0..1."""
    noise = gaussian_filter(np.random.default_rng(seed).random(shape, dtype=np.float32), 3)
    image = (noise - noise.min()) / np.ptp(noise)
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(image)[None], affine=affine)


def installed(package: str) -> bool:
    """Whether a peer is there; imports it, so that no timing holds that."""
    if importlib.util.find_spec(package) is None:
        return False
    importlib.import_module("nnunetv2.inference.predict_from_raw_data" if package == "nnunetv2" else package)
    return True


def differing(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.asarray(a) != np.asarray(b)).mean())


def seconds(times: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {np.median(values):.2f} s" for name, values in times.items())


def windows(options: argparse.Namespace) -> Iterator[Row]:
    """Windows and reduction of a 1 mm brain with SegFormer3D, in the network's grid."""
    image = phantom((166, 225, 167))
    torch.manual_seed(0)
    network = SegFormer3D(1, 4).eval()
    torch.manual_seed(0)
    published = pipelines.as_published(SegFormer3D(1, 4).eval())
    published.classes = network.classes = 4
    run = {"medvit": partial(pipelines.medvit_windows, image, network, ROI, options.overlap)}
    if engine_installed("openvino"):
        other = Execution(backend="openvino")
        run["medvit, OpenVINO"] = partial(
            pipelines.medvit_windows, image, network, ROI, options.overlap, execution=other
        )
        # The conversion and its compilation are not of a study.
        StreamingWindowInferer(ROI, execution=other).segment(torch.zeros(1, *ROI), network)
    run["MONAI"] = partial(pipelines.monai_windows, image, published, ROI, options.overlap)
    run["MONAI, medvit's network"] = partial(pipelines.monai_windows, image, network, ROI, options.overlap)
    for package, name in (("nnunetv2", "nnU-Net"), ("torchio", "TorchIO")):
        if installed(package):
            peer = getattr(pipelines, f"{package.removesuffix('v2')}_windows")
            run[name] = partial(peer, image.as_tensor(), published, ROI, options.overlap)
    times, labels = interleaved(options.rounds, run)
    for ours in [name for name in run if name.startswith("medvit")]:
        for name in [name for name in run if not name.startswith("medvit")]:
            case = f"SegFormer3D, overlap {options.overlap}, {ours} v {name}"
            yield case, f"{ratio(times, ours, name):.2f}x", seconds(times)
    for name in ("MONAI", "MONAI, medvit's network"):
        for ours in [name for name in run if name.startswith("medvit")]:
            share = differing(labels[ours], labels[name])
            yield f"SegFormer3D, voxels of {ours} that differ from {name}", f"{share:.1e}", ""


def swin(options: argparse.Namespace) -> Iterator[Row]:
    """SwinUNETR, medvit's against MONAI's: one window, and windows and reduction of a block of several."""
    block, window = phantom((166, 160, 96)), phantom(ROI).as_tensor()[None]
    for size in options.feature_sizes:
        torch.manual_seed(0)
        stock = StockSwinUNETR(1, 4, feature_size=size).eval()
        ours = SwinUNETR(1, 4, feature_size=size).eval()
        ours.load_state_dict(stock.state_dict())

        def forward(network: nn.Module) -> Tensor:
            with torch.inference_mode():
                return network(window)

        run = {"medvit": partial(forward, ours), "MONAI": partial(forward, stock)}
        times, logits = interleaved(options.rounds, run)
        error = (logits["medvit"] - logits["MONAI"]).abs().max() / np.ptp(logits["MONAI"].numpy())
        note = f"{seconds(times)}; largest difference {error:.0e} of the logits' range"
        yield f"SwinUNETR {size}, one window", f"{ratio(times, 'medvit', 'MONAI'):.2f}x", note
        if size not in options.block_sizes:
            continue
        run = {"medvit": partial(pipelines.medvit_windows, block, ours, ROI, options.overlap)}
        run["MONAI"] = partial(pipelines.monai_windows, block, stock, ROI, options.overlap)
        times, labels = interleaved(1, run)
        note = f"{seconds(times)}; {differing(labels['medvit'], labels['MONAI']):.0e} of voxels differ"
        case = f"SwinUNETR {size}, 166x160x96, overlap {options.overlap}"
        yield case, f"{ratio(times, 'medvit', 'MONAI'):.2f}x", note


def engines(options: argparse.Namespace) -> Iterator[Row]:
    """One window by each engine and precision against torch in float32, and torch with two threads."""
    window = phantom(ROI).as_tensor()[None]
    for name in options.networks:
        torch.manual_seed(0)
        network = NETWORKS[name]().eval()
        wanted = [(b, bf16) for b in BACKENDS for bf16 in (False, True) if engine_installed(b)]
        # ONNX Runtime computes in float32 on a CPU.
        wanted = [pair for pair in wanted if pair != ("onnxruntime", True)]
        run: dict[str, Callable[[], Tensor]] = {}
        for backend, bf16 in wanted:
            execution = Execution(backend=backend, amp="bf16" if bf16 else None)
            ask = Predictor([network], Flips(), execution, InferenceReport())
            run[f"{TITLES[backend]}, {'bfloat16' if bf16 else 'float32'}"] = partial(ask, window)
        with Execution().running([network]):
            for ask_once in run.values():
                ask_once()
            times, logits = interleaved(options.rounds, run)
            reference = logits.pop("torch, float32").float()
            for case, answer in logits.items():
                share = differing(answer.argmax(1), reference.argmax(1))
                error = float((answer.float() - reference).abs().max() / np.ptp(reference.numpy()))
                note = f"{share:.1e} of voxels differ, logits by {error:.0e} of their range"
                yield f"{name}, one window, {case}", f"{ratio(times, case, 'torch, float32'):.2f}x", note
            yield f"{name}, one window", "", seconds(times)
            yield f"{name}, one window, two threads, wall time", f"{two_threads(network, window):.2f}x", ""


def two_threads(network: nn.Module, window: Tensor) -> float:
    """How many times as fast two threads are as one, in the best of five rounds each."""
    best = {1: float("inf"), 2: float("inf")}
    for _ in range(5):
        for threads in best:
            torch.set_num_threads(threads)
            started = time.perf_counter()
            network(window)
            best[threads] = min(best[threads], time.perf_counter() - started)
    torch.set_num_threads(1)
    return best[1] / best[2]


def files(options: argparse.Namespace) -> Iterator[Row]:
    """Study file to label file, overlap 0.25: all that is not the network, and with SegFormer3D."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "study.nii.gz", Path(folder)
        if options.image is None:
            image = (255 * phantom((188, 256, 190))[0].numpy()).astype(np.uint8)
            nib.save(nib.Nifti1Image(image, np.diag([0.88, 0.88, 0.88, 1])), path)
        else:
            path = options.image
        torch.manual_seed(0)
        ours = SegFormer3D(1, 4).eval()
        torch.manual_seed(0)
        theirs = pipelines.as_published(SegFormer3D(1, 4).eval())
        for name, own, stock in (("no network", Bands(4), Bands(4)), ("SegFormer3D", ours, theirs)):
            run: dict[str, Callable[[], Path]] = {
                "medvit": partial(pipelines.medvit_file, path, out, own, ROI, 0.25)
            }
            for order in ("logits", "labels"):
                run[f"MONAI, {order} inverted"] = partial(
                    pipelines.monai_file, path, out, stock, ROI, 0.25, order
                )
            times, written = interleaved(options.rounds, run)
            labels = {key: np.asanyarray(nib.load(file).dataobj) for key, file in written.items()}
            for key in list(run)[1:]:
                share = f"{differing(labels['medvit'], labels[key]):.1e} of voxels differ"
                yield f"file to file, {name}, v {key}", f"{ratio(times, 'medvit', key):.2f}x", share
            yield f"file to file, {name}", "", seconds(times)


def memory(options: argparse.Namespace) -> Iterator[Row]:
    """Peak memory over the input: deep volumes, and many classes back to a finer source grid."""
    deep = [("medvit", 240), ("medvit", 480), ("medvit", 960), ("monai", 480)]
    peaks = {case: in_own_process(__file__, "deep", *case).get("peak", float("nan")) for case in deep}
    note = ", ".join(f"{who} {depth} slices {peak:.0f} MB" for (who, depth), peak in peaks.items())
    share = peaks["medvit", 480] / peaks["monai", 480]
    yield "24 classes, 144x144x480, peak v MONAI", f"{share:.2f}x", note
    growth = peaks["medvit", 960] / peaks["medvit", 240]
    yield "24 classes, 4x the slices, peak v 1x", f"{growth:.2f}x", "window output and label map included"
    nnunet = ["nnunet", "nnunet_torch"] if installed("nnunetv2") else []
    cases = ((options.edge, ["monai_bundle", *nnunet]), (options.monai_edge, ["monai"]))
    for edge, peers in cases:
        found = {who: in_own_process(__file__, "classes", who, edge) for who in ("medvit", *peers)}
        values = (f"{w} {f.get('peak', 0):.0f} MB {f.get('seconds', 0):.1f} s" for w, f in found.items())
        note = ", ".join(values)
        for who in peers:
            for key, unit in (("peak", "peak memory"), ("seconds", "CPU time")):
                value = found["medvit"].get(key, np.nan) / found[who].get(key, np.nan)
                yield f"104 classes, {edge}^3 at 1.5 mm to 0.8 mm, {unit} v {who}", f"{value:.3f}x", note
    if options.full:
        full = in_own_process(__file__, "classes", "medvit", 256)
        cost = f"{full['peak']:.0f} MB", f"{full['seconds']:.0f} CPU s"
        yield "104 classes, 256^3 to 480^3, medvit alone", *cost


def studies(options: argparse.Namespace) -> Iterator[Row]:
    """Memory of one process after each of 20 studies of one size, file to file."""
    grown = in_own_process(__file__, "studies")
    note = f"{grown['third']:.0f} MB after the third, {grown['last']:.0f} MB after the last"
    yield "20 studies in one process, highest level after the third", f"{grown['growth']:+.1f} MB", note


def huge(options: argparse.Namespace) -> Iterator[Row]:
    """A memory-mapped NIfTI of 1504x1504 voxels a slice to a memory-mapped NIfTI of labels."""
    found = in_own_process(__file__, "huge", "medvit", options.slices)
    note = f"{found['seconds']:.0f} CPU s; {found['resident']:.0f} MB with the files' mapped pages"
    yield f"1504x1504x{options.slices}, 2 classes, peak working memory", f"{found['peak']:.0f} MB", note


def worker(case: str, who: str = "medvit", number: int = 0) -> dict[str, float]:
    """One measurement in a process of its own."""
    torch.set_num_threads(1)
    if case == "studies":
        return twenty_studies()
    if case == "huge":
        return huge_volume(number)
    if case == "deep":
        image, network = phantom((144, 144, number)), Bands(24)
        pipelines.medvit_windows(image[:, :96, :96, :96], network, ROI, 0.5)
        return {"peak": peak_of(partial(getattr(pipelines, f"{who}_windows"), image, network, ROI, 0.5))}
    image, network = phantom((number,) * 3, 1.5), Bands(104)
    fine = round(number * 1.5 / 0.8)
    roi = ROI if number > 200 else (64, 64, 64)
    run = getattr(pipelines, f"{who.removesuffix('_torch')}_to_source")
    if who.startswith("nnunet"):
        run = partial(run, kind="torch" if who.endswith("torch") else "default")
    target = Grid((fine,) * 3, np.diag([0.8, 0.8, 0.8, 1.0]))
    taken: list[float] = []

    def once() -> None:
        times, _ = interleaved(1, {"run": partial(run, image, network, roi, target)})
        taken.extend(times["run"])

    return {"peak": peak_of(once), "seconds": taken[0]}


def twenty_studies() -> dict[str, float]:
    """MB by which the process is larger after any of studies 4 to 20 than after study 3."""
    after = []
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "study.nii.gz", Path(folder)
        for number in range(20):
            image = (255 * phantom((100, 96, 90), seed=number)[0].numpy()).astype(np.uint8)
            nib.save(nib.Nifti1Image(image, np.diag([0.8, 0.8, 0.8, 1])), path)
            pipelines.medvit_file(path, out, Bands(24), (64, 64, 64), 0.25)
            after.append(status("VmRSS"))
    return {"growth": max(after[3:]) - after[2], "third": after[2], "last": after[-1]}


def huge_volume(slices: int) -> dict[str, float]:
    """Peak of the anonymous memory, and of all resident memory, over the level before."""
    shape, offset = (1504, 1504, slices), 352
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("image.nii", "labels.nii")]
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(shape)
        header.set_sform(np.eye(4), code=1)
        header["vox_offset"] = offset
        for path in paths:
            with path.open("wb") as file:
                header.write_to(file)
                file.truncate(offset + int(np.prod(shape)))
        image, labels = (np.memmap(p, np.uint8, "r+", offset, shape, order="F") for p in paths)
        # A bright block in each corner of an otherwise empty, sparse file: a misplaced slab would show.
        corners = np.ix_(*(sorted({*range(20), *range(n - 20, n)}) for n in shape))
        image[corners] = 255
        image.flush()
        volume = Volume.open(paths[0], prepare=lambda slab: slab.div_(255))
        inferer = StreamingWindowInferer(ROI, 0.25, axis=1)
        taken: list[float] = []

        def once() -> None:
            times, _ = interleaved(1, {"run": partial(inferer.segment, volume, Bands(2), out=labels)})
            taken.extend(times["run"])

        anonymous: list[float] = []
        resident = peak_of(lambda: anonymous.append(anonymous_peak_of(once)))
        assert (labels[corners] == 1).all() and labels.sum(dtype=np.int64) == labels[corners].size
    return {"peak": anonymous[0], "resident": resident, "seconds": taken[0]}


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SegFormer3D": partial(SegFormer3D, 1, 4),
    "SwinUNETR 12": partial(SwinUNETR, 1, 4, feature_size=12),
    "SwinUNETR 24": partial(SwinUNETR, 1, 4, feature_size=24),
}
CASES = {
    "windows": windows,
    "swin": swin,
    "engines": engines,
    "files": files,
    "memory": memory,
    "studies": studies,
    "huge": huge,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[c for c in CASES if c != "huge"])
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=["SegFormer3D"], help="of the case `engines`"
    )
    parser.add_argument("--overlap", type=float, default=0.5, help="of the case `windows`")
    parser.add_argument("--feature-sizes", nargs="+", type=int, default=[12, 24, 48])
    parser.add_argument("--block-sizes", nargs="*", type=int, default=[12], help="those also on a block")
    parser.add_argument("--image", type=Path, help="a .nii.gz head scan; a phantom otherwise")
    parser.add_argument("--edge", type=int, default=64, help="voxels of the 104-class volume")
    parser.add_argument("--monai-edge", type=int, default=96, help="the same v MONAI without its copies")
    parser.add_argument("--slices", type=int, default=561, help="of the case `huge`")
    parser.add_argument("--full", action="store_true", help="also the 104 classes at full size, medvit alone")
    parser.add_argument("--worker", nargs="+")
    options = parser.parse_args()
    if options.worker:
        case, *rest = options.worker
        print(json.dumps(worker(case, *rest[:1], *map(int, rest[1:]))))
        return
    torch.set_num_threads(1)
    print("| case | ours | note |\n|---|---|---|")
    for name in options.cases:
        for row in CASES[name](options):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
