"""Sharp generated heads in random contrasts, and the manifest that `medvit train RESTORER --degrade` reads.

    python benchmarks/generated_heads.py LABEL_MAPS OUT [--heads 10]

The label maps are those of SynthSeg, with FreeSurfer's numbers at 1 mm, without the two that are held out.
Each head is a slab of 32 axial slices; denoisers learn from it, and are measured on real ones (`denoise.py`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from medvit.studies.files import write_image
from medvit.studies.study import Grid
from medvit.synthesis import SynthesisSettings, Synthesizer, brain_anatomy, find_label_maps, read_head_map
from medvit.synthesis.restoration import FAULTS

SHAPE = (160, 192, 32)


def main() -> None:
    """Write images and manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=int, default=10)
    options = parser.parse_args()
    anatomy = brain_anatomy()
    settings = SynthesisSettings(SHAPE, texture=0.015, translation=5.0).without(*FAULTS)
    synthesizer, cases = Synthesizer(anatomy, settings), []
    maps = find_label_maps(options.label_maps, exclude=["seg_09", "seg_14"])
    for number in range(options.heads):
        generator = torch.Generator().manual_seed(number)
        head = read_head_map(maps[number % len(maps)], anatomy)
        image = synthesizer(head, generator)[0][0].numpy()
        write_image(options.out / f"head{number}.nii.gz", image, Grid(SHAPE, np.diag([1.0, 1, 1, 1])))
        cases.append({"id": f"head{number}", "image": f"head{number}.nii.gz"})
    manifest = {"name": "generated heads", "modality": "MR", "channels": ["image"], "cases": cases}
    (options.out / "dataset.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main()
