"""`StructureFinder`: locates structures with another bundle, for bundles that examine them closely."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medvit.bundles.find import find_bundle
from medvit.bundles.workflow import open_bundle
from medvit.errors import MedvitError


class StructureFinder:
    """Segments an image with another installed bundle and returns the positions of its structures.

    The bundle is opened at the first image and stays open.

    Parameters
    ----------
    bundle
        Name of an installed bundle that segments.
    """

    def __init__(self, bundle: str) -> None:
        self.bundle = find_bundle(bundle)

    @cached_property
    def _parts(self) -> dict[str, Any]:
        opened = open_bundle(self.bundle, device="$torch.device('cpu')")
        names = ("preprocessing", "network", "inferer", "postprocessing")
        return {name: opened.part(name) for name in names}

    def __call__(self, image: MetaTensor) -> dict[str, np.ndarray]:
        """Places in RAS+ mm (N, 3) of the voxels of each structure that is found, by its name.

        Parameters
        ----------
        image
            (C, X, Y, Z) as it was loaded from a study, of any voxel size; it still knows the study's grid.

        Raises
        ------
        MedvitError
            If the bundle does not segment.
        """
        table = self.bundle.label_table
        if table is None:
            raise MedvitError(f"bundle {self.bundle.name} does not segment, so it cannot find structures")
        parts = self._parts
        case: Any = {"image": image}
        # The first step reads the study, which has already been read.
        for step in parts["preprocessing"].transforms[1:]:
            case = step(case)
        network = parts["network"].to(image.device).eval()
        with torch.no_grad():
            labels = parts["inferer"](case["image"][None], network)[0]
        labels = parts["postprocessing"]({"pred": labels, "image": case["image"], "source": image})["pred"]
        affine = labels.affine.cpu().numpy().astype(np.float64)
        values = labels.as_tensor()[0].cpu().numpy()
        found = {}
        for structure in table:
            voxels = np.argwhere(values == structure.value)
            if len(voxels):
                found[structure.name] = voxels @ affine[:3, :3].T + affine[:3, 3]
        return found
