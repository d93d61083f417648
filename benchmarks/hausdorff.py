"""HD95 of label pairs of 512 x 512 x 300 voxels against MONAI's `compute_hausdorff_distance`: CPU seconds.

Run: ``python benchmarks/hausdorff.py``. Both run in turn, on one thread, on the form that each takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance

sys.path.insert(0, str(Path(__file__).parents[1]))
from _measure import interleaved, ratio

from medvit.metrics import hd95
from tests.metrics.shapes import lobed

SHAPE = (512, 512, 300)
SPACING = (0.8, 0.8, 1.5)
ROUNDS = 3
# Centre and radii of the reference in voxels.
ORGANS = {
    "large (liver)": ((200, 260, 150), (110, 90, 55)),
    "small (kidney)": ((330, 300, 140), (32, 30, 36)),
    "whole body": ((256, 256, 150), (225, 160, 140)),
}


def main() -> None:
    torch.set_num_threads(1)
    print("| structure | voxels | HD95, mm | MONAI, CPU s | medvit, CPU s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (centre, radii) in ORGANS.items():
        x, y, z = centre
        reference = lobed(SHAPE, centre, radii, 0.15, 0.0)
        prediction = lobed(SHAPE, (x + 3, y - 2, z + 1), radii, 0.20, 0.3)
        one_hot = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
        times, values = interleaved(
            ROUNDS,
            {
                "monai": lambda pair=one_hot: float(
                    compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=SPACING)
                ),
                "medvit": lambda p=prediction, r=reference: hd95(p, r, SPACING),
            },
        )
        np.testing.assert_allclose(values["medvit"], values["monai"], rtol=1e-5)
        theirs, ours = (np.median(times[key]) for key in ("monai", "medvit"))
        print(
            f"| {name} | {np.count_nonzero(reference):,} | {values['medvit']:.3f} | {theirs:.2f} "
            f"| {ours:.2f} | {ratio(times, 'medvit', 'monai'):.2f} |"
        )


if __name__ == "__main__":
    main()
