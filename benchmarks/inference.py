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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import _pipelines as pipelines
import nibabel as nib
import numpy as np
import torch
from _measure import in_own_process, interleaved, peak_of, ratio, status
from monai.data import MetaTensor
from monai.networks.nets import SwinUNETR as StockSwinUNETR
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from medvit.data import Grid
from medvit.inferers import StreamingWindowInferer
from medvit.networks import SegFormer3D, SwinUNETR

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
        return windows * self.centres - self.centres.square() / 2


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
    run["MONAI"] = partial(pipelines.monai_windows, image, published, ROI, options.overlap)
    run["MONAI, medvit's network"] = partial(pipelines.monai_windows, image, network, ROI, options.overlap)
    for package, name in (("nnunetv2", "nnU-Net"), ("torchio", "TorchIO")):
        if installed(package):
            peer = getattr(pipelines, f"{package.removesuffix('v2')}_windows")
            run[name] = partial(peer, image.as_tensor(), published, ROI, options.overlap)
    times, labels = interleaved(options.rounds, run)
    for name in list(run)[1:]:
        yield (
            f"SegFormer3D, overlap {options.overlap}, v {name}",
            f"{ratio(times, 'medvit', name):.2f}x",
            seconds(times),
        )
    for name in ("MONAI", "MONAI, medvit's network"):
        share = differing(labels["medvit"], labels[name])
        yield f"SegFormer3D, voxels that differ from {name}", f"{share:.1e}", ""


def swin(options: argparse.Namespace) -> Iterator[Row]:
    """One window of SwinUNETR, medvit's forward against MONAI's."""
    window = phantom(ROI).as_tensor()[None]
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
    peers = ["medvit", "monai", *(["nnunet", "nnunet_torch"] if installed("nnunetv2") else [])]
    found = {who: in_own_process(__file__, "classes", who, options.edge) for who in peers}
    note = ", ".join(f"{w} {f.get('peak', 0):.0f} MB {f.get('seconds', 0):.1f} s" for w, f in found.items())
    case = f"104 classes, {options.edge}^3 at 1.5 mm to 0.8 mm"
    for who in peers[1:]:
        for key, unit in (("peak", "peak memory"), ("seconds", "CPU time")):
            value = found["medvit"].get(key, np.nan) / found[who].get(key, np.nan)
            yield f"{case}, {unit} v {who}", f"{value:.3f}x", note
    if options.full:
        full = in_own_process(__file__, "classes", "medvit", 256)
        cost = f"{full['peak']:.0f} MB", f"{full['seconds']:.0f} CPU s"
        yield "104 classes, 256^3 to 480^3, medvit alone", *cost
    grown = in_own_process(__file__, "studies")
    yield (
        "20 studies in one process, growth from 6-10 to 16-20",
        f"{grown['growth']:.1f} MB",
        "",
    )


def worker(case: str, who: str = "medvit", number: int = 0) -> dict[str, float]:
    """One measurement in a process of its own."""
    torch.set_num_threads(1)
    if case == "studies":
        return {"growth": studies()}
    if case == "deep":
        image, network = phantom((144, 144, number)), Bands(24)
        pipelines.medvit_windows(image[:, :96, :96, :96], network, ROI, 0.5)
        return {"peak": peak_of(partial(getattr(pipelines, f"{who}_windows"), image, network, ROI, 0.5))}
    image, network = phantom((number,) * 3, 1.5), Bands(104)
    fine = round(number * 1.5 / 0.8)
    roi = (min(96, number),) * 3
    run = getattr(pipelines, f"{who.removesuffix('_torch')}_to_source")
    if who.startswith("nnunet"):
        run = partial(run, kind="torch" if who.endswith("torch") else "default")
    target = Grid((fine,) * 3, np.diag([0.8, 0.8, 0.8, 1.0]))
    taken: list[float] = []

    def once() -> None:
        times, _ = interleaved(1, {"run": partial(run, image, network, roi, target)})
        taken.extend(times["run"])

    return {"peak": peak_of(once), "seconds": taken[0]}


def studies() -> float:
    """MB by which studies 16 to 20 reach higher than studies 6 to 10, which are of the same sizes."""
    inferer, network = StreamingWindowInferer((64, 64, 64)), Bands(24)
    target = Grid((150, 150, 150), np.diag([0.8, 0.8, 0.8, 1.0]))
    after = []
    for number in range(20):
        inferer.segment(phantom((96 + number % 5, 100, 90), seed=number), network, target)
        after.append(status("VmRSS"))
    return max(after[15:]) - max(after[5:10])


CASES = {"windows": windows, "swin": swin, "files": files, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--overlap", type=float, default=0.5, help="of the case `windows`")
    parser.add_argument("--feature-sizes", nargs="+", type=int, default=[12, 24, 48])
    parser.add_argument("--image", type=Path, help="a .nii.gz head scan; a phantom otherwise")
    parser.add_argument("--edge", type=int, default=80, help="voxels of the 104-class volume v peers")
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
