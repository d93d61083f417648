"""Generated samples as a MONAI dataset and as a transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from medvit.errors import StudyError
from medvit.synthesis.atlas import HeadMap, brain_anatomy, read_head_map
from medvit.synthesis.generator import Synthesizer
from medvit.synthesis.heads import HeadBank
from medvit.synthesis.seeded import SeededDataset
from medvit.synthesis.settings import SynthesisSettings


def find_label_maps(
    folder: str | Path, exclude: Sequence[str] = (), include: Sequence[str] = ("",)
) -> list[Path]:
    """NIfTI label maps of a folder, in order of name.

    Parameters
    ----------
    folder
        Folder of the maps.
    exclude, include
        Parts of file names: a map is taken when its name holds one of `include` and none of `exclude`.

    Raises
    ------
    StudyError
        If there are no maps.
    """
    found = [
        path
        for path in sorted(Path(folder).glob("*.nii*"))
        if any(part in path.name for part in include) and not any(part in path.name for part in exclude)
    ]
    if not found:
        raise StudyError("no-label-maps", "no NIfTI label maps here", path=folder, do="give --dataset_dir")
    return found


class SyntheticDataset(SeededDataset):
    """Images made from annotated heads, each a function of the seed and its index.

    Parameters
    ----------
    label_maps
        NIfTI files with FreeSurfer labels at 1 mm.
    length
        Samples of an epoch; sample i is made from head i modulo the number of heads.
    settings
        `SynthesisSettings` or their keyword arguments.
    seed
        Seed of the random numbers; each seed gives different samples.
    """

    def __init__(
        self,
        label_maps: Sequence[str | Path],
        length: int,
        settings: SynthesisSettings | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(length, seed)
        anatomy = brain_anatomy()
        if isinstance(settings, Mapping):
            settings = SynthesisSettings(**settings)
        self.synthesizer = Synthesizer(anatomy, settings)
        self.heads = [read_head_map(path, anatomy) for path in label_maps]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``image`` (1, X, Y, Z) float32 and ``label`` (1, X, Y, Z) uint8."""
        number = self.number(index)
        image, label = self.synthesizer(self.heads[number % len(self.heads)], self.generator(number))
        return {"image": image, "label": label}


class SyntheticBatches(SeededDataset):
    """Whole batches, made together on one device; for a loader with ``batch_size=None`` and no workers.

    Parameters
    ----------
    label_maps, settings, seed
        The same parameters as of `SyntheticDataset`.
    length, batch_size
        Batches of an epoch, and samples of each.
    device
        Device on which they are made.
    """

    def __init__(
        self,
        label_maps: Sequence[str | Path],
        length: int,
        batch_size: int,
        settings: SynthesisSettings | Mapping[str, Any] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(length, seed)
        samples = SyntheticDataset(label_maps, length, settings, seed)
        self.synthesizer = samples.synthesizer
        self.bank = HeadBank([head.to(device) for head in samples.heads])
        self.batch_size = batch_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``image`` (B, 1, X, Y, Z) float32 and ``label`` (B, 1, X, Y, Z) uint8 on the device."""
        number = self.number(index)
        first = number * self.batch_size
        which = [n % len(self.bank) for n in range(first, first + self.batch_size)]
        image, label = self.synthesizer.batch(self.bank, which, self.generator(number))
        return {"image": image, "label": label}


class SyntheticSlices(SyntheticDataset):
    """Slices of generated heads, for two-dimensional networks.

    A head is generated whole, as its intensities are scaled over the volume, and several of its slices are
    drawn. The planes take turns, one round over the heads each.

    Parameters
    ----------
    label_maps, length, settings, seed
        The same parameters as of `SyntheticDataset`; `length` counts heads.
    slices
        Number of slices per head.
    axes
        Axes along which the slices are stacked: 2 gives axial ones, 1 coronal ones. Their sides must show,
        which in sagittal ones they do not.
    """

    def __init__(
        self,
        label_maps: Sequence[str | Path],
        length: int,
        settings: SynthesisSettings | Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        slices: int = 16,
        axes: Sequence[int] = (2, 1),
    ) -> None:
        super().__init__(label_maps, length, settings, seed)
        if not set(axes) <= {1, 2}:
            raise ValueError(f"slices must be stacked along axis 1 or 2, not {tuple(axes)}")
        self.slices = slices
        self.axes = tuple(axes)

    def __getitem__(self, index: int) -> list[dict[str, torch.Tensor]]:  # type: ignore[override]
        """`slices` times ``image`` (1, H, W) float32 and ``label`` (1, H, W) uint8."""
        volumes = super().__getitem__(index)
        number = self.number(index)
        axis = self.axes[number // len(self.heads) % len(self.axes)] + 1
        chosen = np.random.default_rng([self.seed, number]).choice(
            volumes["image"].shape[axis], self.slices, replace=False
        )
        return [{key: v.select(axis, int(i)) for key, v in volumes.items()} for i in sorted(chosen)]


class SynthesizeImaged(Randomizable, MapTransform):
    """Replace a `HeadMap` under a key by a generated ``image`` and ``label``.

    Parameters
    ----------
    keys
        Key of the `HeadMap`.
    settings
        `SynthesisSettings` or their keyword arguments.
    """

    def __init__(self, keys: str, settings: SynthesisSettings | Mapping[str, Any] | None = None) -> None:
        super().__init__(keys)
        if isinstance(settings, Mapping):
            settings = SynthesisSettings(**settings)
        self.synthesizer = Synthesizer(brain_anatomy(), settings)
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the seed of the next sample."""
        self._seed = int(self.R.randint(np.iinfo(np.int32).max))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """``image`` (1, X, Y, Z) float32 and ``label`` (1, X, Y, Z) uint8, and all else in `data`."""
        rest = dict(data)
        head: HeadMap = rest.pop(self.keys[0])
        self.randomize()
        generator = torch.Generator().manual_seed(self._seed)
        image, label = self.synthesizer(head, generator)
        return rest | {"image": image, "label": label}
