"""A restoration bundle on noise that was really acquired, without a truth made up for it.

    python benchmarks/real_noise.py rat_mr_denoise IMAGE.nii.gz
    python benchmarks/real_noise.py rat_ct_denoise SERIES

Of an image with repetitions along its fourth axis, what differs between repetitions is noise, and the mean
of all other repetitions is nearly free of it: PSNR to that mean, and noise in even patches of the foreground.
Of a single image, noise is looked at in patches of air, in which magnitudes have a floor. Of a CT, every
tenth slice is taken as it was acquired, and noise is what patches of even soft tissue have beside their mean.

Power is that of the noise in rings of spatial frequency (ICRU report 87); a pattern is what repeats every
eight pixels. Labelled and control images of arterial spin labelling alternate; differences are taken of like
ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from _noise import HEADING, described, patches
from denoise import by_bundle, even, true_slices

from medvit.bundles import Bundle, find_bundle
from medvit.metrics import assess_difference, psnr
from medvit.reports.image_quality import foreground


def restore(volume: np.ndarray, bundle: Bundle) -> np.ndarray:
    """The volume restored slice by slice; what is exactly 0 stays so."""
    restored = np.stack(by_bundle(list(np.moveaxis(volume, 2, 0)), bundle), axis=-1)
    return np.where(volume == 0, 0, restored)


def on_ct(study: str, bundle: Bundle) -> None:
    """Print the noise of a CT at its own dose, before and after."""
    window = (-160.0, 240.0)
    slices = [plane.clip(-1024, 3071) for plane in true_slices(study, 10, 5)[0]]
    inside = even(slices, window)
    print(f"{len(slices)} slices {slices[0].shape}\n{HEADING}")
    for name, volume in (("before", slices), ("after", by_bundle(slices, bundle))):
        found = patches(np.stack(volume, axis=-1), inside)
        print(described(name, found - found.mean(axis=(1, 2), keepdims=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("image")
    options = parser.parse_args(arguments)
    bundle = find_bundle(options.bundle)
    if "CT" in bundle.facts["modality"]:
        on_ct(options.image, bundle)
        return
    image = np.asarray(nib.load(options.image).dataobj, np.float32)
    series = np.moveaxis(image if image.ndim == 4 else image[..., None], 3, 0)
    restored = np.stack([restore(volume, bundle) for volume in series])
    body = foreground(series.mean(axis=0))
    taken = assess_difference(series[0], restored[0], body)
    below = 100 * np.mean(restored < 0)
    print(f"{image.shape}: {taken}; {below:.1f} % of the voxels below 0")
    print(HEADING)
    if len(series) == 1:
        air = ~foreground(np.sqrt(series[0])) & (series[0] > 0)
        for name, volume in (("before", series[0]), ("after", restored[0])):
            print(described(name, patches(volume, air)))
        return
    step = 2 if len(series) > 2 else 1
    for name, volumes in (("before", series), ("after", restored)):
        pairs = zip(volumes[:-step], volumes[step:], strict=True)
        print(described(name, np.concatenate([patches((a - b) / np.sqrt(2), body) for a, b in pairs])))
    span = float(np.percentile(series[0][body], 99.5))
    for name, volumes in (("before", series), ("after", restored)):
        scores = []
        for n in range(len(series)):
            others = [m for m in range(n % step, len(series), step) if m != n]
            mean = series[others].mean(axis=0)
            scores.append(psnr(volumes[n][body], mean[body], data_range=span))
        print(f"{name}: PSNR {np.mean(scores):.2f} dB to the mean of the other repetitions")


if __name__ == "__main__":
    main()
