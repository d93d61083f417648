"""Restoration bundles against classical denoisers, on the axial slices of a real study with added noise.

    python benchmarks/denoise.py ct CT.nii.gz [--dose 0.25] [--noise-index 15] [--red-cnn FOLDER]
    python benchmarks/denoise.py mr HEAD.nii.gz [--sigma 0.08] [--bundle FOLDER...]

The study is taken as the truth. CT gets the noise of a scan at a lower dose (`medvit.synthesis.low_dose`), MR
Rician noise of a share of its brightest tissue. The classical methods are told the noise, in MR their results
are freed of the Rician offset, and their strength is the best of several by the mean PSNR on these very
slices, which favours them; the bundles are told nothing. BM3D is a plain implementation of the published
algorithm (`_bm3d.py`). Wavelets are left out without PyWavelets. RED-CNN (Chen et al. 2017) runs with the
published weights of a folder (`*.pyt`), on slices in HU that are continued by reflection.

PSNR, SSIM and RMSE are within the window: -160 to 240 HU, or 0 to the 99.5 percentile. Bias is the mean of
restored minus true intensity in each homogeneous region. Memory is what the restoration takes at most over
what the process held before. The last table has the noise power spectrum: that of the difference from the
truth in even patches, before and after.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _bm3d import bm3d
from _measure import anonymous_peak_of
from _noise import EDGE, HEADING, described, patches
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from medvit.bundles import Bundle, find_bundle, open_bundle
from medvit.inference import SliceRestorer
from medvit.metrics.restoration import hu_bias, psnr, rmse, ssim
from medvit.networks import load_weights
from medvit.studies import find_studies, read_study
from medvit.synthesis import Scan, low_dose
from medvit.training import inference_component
from medvit.transforms import ClampRestoredd, RegionChanneld, ScaleToUnitd
from medvit.transforms.regions import felzenszwalb_regions
from medvit.transforms.restoration import UNIT

Slices = list[np.ndarray]
Window = tuple[float, float]
BUNDLES = {"ct": "rat_ct_denoise", "mr": "rat_mr_denoise"}
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25)


def true_slices(path: str, step: int, skip: int) -> tuple[Slices, float]:
    """Axial slices of a study, and the edge of a pixel in mm."""
    study = read_study(find_studies(path).studies[0])
    axis = int(np.argmax(np.abs(study.grid.affine[2, :3])))
    spacing = [s for a, s in enumerate(study.grid.spacing) if a != axis]
    volume = np.moveaxis(study.image[0].numpy(), axis, 0)
    held = [plane for plane in volume[skip::step] if (plane > volume.min()).mean() > 0.2]
    return held, float(np.mean(spacing))


def at_low_dose(true: Slices, spacing: float, scan: Scan) -> Slices:
    generator = torch.Generator().manual_seed(0)
    return [low_dose(torch.from_numpy(t)[None], spacing, scan, generator)[0].numpy() for t in true]


def rician(true: Slices, sigma: float) -> Slices:
    generator = np.random.default_rng(0)
    return [
        np.hypot(t + generator.normal(0, sigma, t.shape), generator.normal(0, sigma, t.shape)).astype("f4")
        for t in true
    ]


def by_bundle(noisy: Slices, bundle: Bundle) -> Slices:
    """The bundle by its own preprocessing, windows and limits."""
    limits, window, unit, roi_size, overlap, slices, within = (
        inference_component(bundle.path, s)
        for s in ("limits", "window", "unit", "roi_size", "overlap", "slices", "within_source")
    )
    network = load_weights(inference_component(bundle.path, "network_def"), bundle.weights)
    sample = {"image": MetaTensor(torch.from_numpy(np.stack(noisy, axis=-1))[None])}
    sample = ScaleToUnitd("image", limits, unit)(sample)
    if open_bundle(bundle).stated("preprocessing")["window"] is not None:
        sample = RegionChanneld("image", (window[0] / (unit or 1), window[1] / (unit or 1)))(sample)
    restored = SliceRestorer(roi_size, overlap, slices)(sample["image"][None], network)[0]
    restored = restored.as_tensor() * sample["image"].meta[UNIT]
    # One slice after the other: these are not neighbours.
    clamp = ClampRestoredd("pred", limits, within)
    sources = (torch.from_numpy(n)[None, ..., None] for n in noisy)
    clamped = [
        clamp({"pred": r[..., None], "source": source})["pred"]
        for r, source in zip(restored.unbind(-1), sources, strict=True)
    ]
    return [c[0, ..., 0].numpy() for c in clamped]


@torch.inference_mode()
def by_red_cnn(noisy: Slices, folder: Path) -> Slices:
    """RED-CNN whose inner convolutions share one kernel, and its inner transposed convolutions another."""
    (file,) = folder.glob("*.pyt")
    weights = torch.load(file, weights_only=True, map_location="cpu")

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        apply = F.conv_transpose2d if name.startswith("conv_t") else F.conv2d
        return apply(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    restored = []
    for image in noisy:
        x = F.pad(torch.from_numpy(image)[None, None], (20,) * 4, mode="reflect")
        first, kept = x, []
        for name in ("conv_first", *["conv"] * 4):
            x = F.relu(layer(name, x))
            kept.append(x)
        x = layer("conv_t", x) + kept[3]
        x = layer("conv_t", F.relu(x))
        x = layer("conv_t", F.relu(x)) + kept[1]
        x = layer("conv_t", F.relu(x))
        x = layer("conv_t_last", F.relu(x)) + first
        restored.append(x[0, 0, 20:-20, 20:-20].numpy())
    return restored


def by_nlm(image: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    return denoise_nl_means(image, 5, 9, h=strength * sigma, sigma=sigma, fast_mode=True)


def by_tv(image: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    return denoise_tv_chambolle(image, weight=strength * sigma)


def by_wavelets(image: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    return denoise_wavelet(image, sigma=strength * sigma, method="BayesShrink", rescale_sigma=False)


def by_gauss(image: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    return gaussian_filter(image, strength)


# Which scikit-image imports only when it is called.
HAS_WAVELETS = find_spec("pywt") is not None
CLASSICAL: dict[str, Callable] = {
    "Gaussian": by_gauss, "wavelets": by_wavelets, "TV": by_tv, "NLM": by_nlm, "BM3D": bm3d,
}  # fmt: skip


def tuned(
    method: Callable, noisy: Slices, true: Slices, window: Window, rician_sigma: float
) -> tuple[Slices, float]:
    """The results at the strength of the best mean PSNR, and that strength."""
    # Beyond the window and a margin, steps of bone and air would cost the classical methods dearly.
    margin = (window[1] - window[0]) / 4
    low, high = window[0] - margin, window[1] + margin
    sigmas = [float(np.std((n - t)[t > window[0]])) for n, t in zip(noisy, true, strict=True)]
    best: tuple[float, Slices, float] = (-np.inf, [], 0.0)
    for strength in STRENGTHS:
        found = [method(n.clip(low, high), s, strength) for n, s in zip(noisy, sigmas, strict=True)]
        # The second moment of a Rician magnitude is that of the signal and twice the noise's variance.
        if rician_sigma:
            found = [np.sqrt((f**2 - 2 * rician_sigma**2).clip(0)) for f in found]
        score = float(np.mean([s for s, _, _ in in_window(found, true, window)]))
        if score > best[0]:
            best = (score, found, strength)
    return best[1], best[2]


def in_window(restored: Slices, true: Slices, window: Window) -> list[tuple[float, float, float]]:
    """PSNR, SSIM and RMSE of each slice; the last where the truth is above the window's lower end."""
    scores = []
    for r, t in zip(restored, true, strict=True):
        a, b, span = r.clip(*window), t.clip(*window), window[1] - window[0]
        inside = t > window[0]
        scores.append((psnr(a, b, data_range=span), ssim(a, b, data_range=span), rmse(a[inside], b[inside])))
    return scores


def biases(restored: Slices, true: Slices, window: Window) -> list[float]:
    """Bias of each homogeneous region whose mean lies within the window."""
    found = []
    for r, t in zip(restored, true, strict=True):
        regions = felzenszwalb_regions(t.clip(*window)[None])
        even = hu_bias(r, t, regions, margin=2, max_std=(window[1] - window[0]) / 16, min_size=60)
        found += [b for n, b in even.items() if window[0] < t[regions == n].mean() < window[1]]
    return found


def even(true: Slices, window: Window) -> np.ndarray:
    """(X, Y, slices) whether a pixel lies in a patch of the true image that is even and in the window."""
    kept = []
    for t in true:
        width, height = (n // EDGE * EDGE for n in t.shape)
        cut = t[:width, :height].reshape(width // EDGE, EDGE, height // EDGE, EDGE)
        mean, spread = cut.mean(axis=(1, 3)), cut.std(axis=(1, 3))
        good = (spread < (window[1] - window[0]) / 16) & (window[0] < mean) & (mean < window[1])
        whole = np.zeros(t.shape, bool)
        whole[:width, :height] = np.kron(good, np.ones((EDGE, EDGE), bool))
        kept.append(whole)
    return np.stack(kept, axis=-1)


def row(
    name: str, restored: Slices, true: Slices, window: Window, seconds: float, note: str, memory: str = ""
) -> str:
    scores = np.mean(in_window(restored, true, window), axis=0)
    bias = np.array(biases(restored, true, window) or [np.nan])
    return (
        f"| {name} | {scores[0]:.2f} | {scores[1]:.3f} | {scores[2]:.4g} | {bias.mean():+.2f} | "
        f"{np.abs(bias).mean():.2f} | {np.abs(bias).max():.2f} | {seconds / len(true):.2f} | {memory} | "
        f"{note} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modality", choices=BUNDLES)
    parser.add_argument("study")
    parser.add_argument("--dose", type=float, default=0.25)
    parser.add_argument("--noise-index", type=float, default=15.0)
    parser.add_argument("--sigma", type=float, default=0.08)
    parser.add_argument("--step", type=int, default=8)
    parser.add_argument("--skip", type=int, default=3)
    parser.add_argument("--bundle", nargs="*", default=[], metavar="FOLDER", help="further bundles")
    parser.add_argument("--red-cnn", type=Path, metavar="FOLDER")
    usual = [name for name in CLASSICAL if name != "wavelets" or HAS_WAVELETS]
    parser.add_argument("--methods", nargs="*", choices=CLASSICAL, default=usual)
    options = parser.parse_args(arguments)
    if not HAS_WAVELETS:
        missing = "wavelets need PyWavelets: pip install PyWavelets"
        if "wavelets" in options.methods:
            parser.error(missing)
        print(f"{missing}; left out")
    true, spacing = true_slices(options.study, options.step, options.skip)
    if options.modality == "ct":
        true = [t.clip(-1024, 3071) for t in true]
        window, scan = (-160.0, 240.0), Scan(options.dose, options.noise_index)
        noisy, said, sigma = at_low_dose(true, spacing, scan), str(scan), 0.0
    else:
        window = (0.0, float(np.percentile(np.stack(true)[np.stack(true) > 0], 99.5)))
        sigma = options.sigma * window[1]
        noisy, said = rician(true, sigma), f"Rician, sigma {options.sigma:.0%}"
    print(f"{len(true)} slices {true[0].shape}, {spacing:.2f} mm, {said}")
    columns = "PSNR, dB | SSIM | RMSE | mean bias | mean abs bias | worst bias | s/slice | MB | strength"
    print(f"| method | {columns} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(row("none", noisy, true, window, 0, ""), flush=True)
    found = {"none": noisy}
    for name in (BUNDLES[options.modality], *options.bundle):
        bundle, results = find_bundle(name, trust=True), []
        started = time.process_time()
        memory = anonymous_peak_of(lambda b=bundle, r=results: r.append(by_bundle(noisy, b)))
        seconds = time.process_time() - started
        said = row(bundle.name, results[0], true, window, seconds, "blind", f"{memory:.0f}")
        print(said, flush=True)
        found[bundle.name] = results[0]
    if options.red_cnn and options.modality == "ct":
        started = time.process_time()
        restored = by_red_cnn(noisy, options.red_cnn)
        print(row("RED-CNN", restored, true, window, time.process_time() - started, "blind"), flush=True)
        found["RED-CNN"] = restored
    for name in options.methods:
        started = time.process_time()
        restored, strength = tuned(CLASSICAL[name], noisy, true, window, sigma)
        seconds = (time.process_time() - started) / len(STRENGTHS)
        print(row(name, restored, true, window, seconds, str(strength)), flush=True)
        found[name] = restored
    print(f"\n{HEADING}")
    inside = even(true, window)
    for name, slices in found.items():
        difference = np.stack(slices, axis=-1) - np.stack(true, axis=-1)
        print(described(name, patches(difference, inside)))


if __name__ == "__main__":
    main()
