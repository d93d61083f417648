"""Windows for training: cut from prepared cases on disk, half of them around labelled voxels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor

from medvit.datasets import Case, Manifest
from medvit.studies import atomic_path, safe_name
from medvit.studies.study import Grid
from medvit.synthesis import SeededDataset
from medvit.training import inference_component
from medvit.training.cases import read_case
from medvit.transforms.resample import resample_labels

_KEPT = 1_000  # voxels of each structure that windows may be centred on
# Share by which a window is cut larger at each end, because a rotation moves its corners in.
_MARGIN = 0.1


@dataclass(frozen=True)
class Sample:
    """A prepared case: image and label map on the network's grid.

    Parameters
    ----------
    image
        (C, X, Y, Z), or the ``.npy`` file that holds it, of which windows alone are read.
    label
        (X, Y, Z), likewise.
    centres
        For each structure that occurs, up to 1,000 of its voxels, (N, 3).
    """

    image: np.ndarray | Path
    label: np.ndarray | Path
    centres: Mapping[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, image: np.ndarray, label: np.ndarray) -> Sample:
        """A sample in memory."""
        return cls(image, label, centres_of(label))


def centres_of(label: np.ndarray) -> dict[int, np.ndarray]:
    """Up to 1,000 voxels of each structure of a label map (X, Y, Z), the same in each call."""
    random = np.random.default_rng(0)
    flat = label.ravel()
    order = np.flatnonzero(flat)
    values = flat[order]
    centres = {}
    for value in np.unique(values).tolist():
        voxels = order[values == value]
        chosen = random.choice(voxels, min(_KEPT, len(voxels)), replace=False)
        centres[int(value)] = np.stack(np.unravel_index(chosen, label.shape), axis=1)
    return centres


def prepare_samples(
    cases: Sequence[Case], manifest: Manifest, bundle_root: str | Path, folder: str | Path
) -> list[Sample]:
    """Read cases, preprocess them as the bundle does for inference, and keep them on disk.

    Parameters
    ----------
    cases
        Cases with label maps.
    bundle_root
        Bundle whose preprocessing is used.
    folder
        Folder for prepared cases; those made from the same files by the same preprocessing are reused.

    Raises
    ------
    StudyError
        If a case cannot be read.
    """
    preprocessing = inference_component(bundle_root, "preprocessing")
    config = json.loads((Path(bundle_root) / "configs" / "inference.json").read_text(encoding="utf-8"))
    recipe = json.dumps(
        [config["preprocessing"], config["spacing"], manifest.labels and [manifest.values, manifest.ignore]]
    )
    return [_prepared(case, manifest, preprocessing, recipe, Path(folder)) for case in cases]


def _prepared(
    case: Case, manifest: Manifest, preprocessing: Callable[..., Any], recipe: str, folder: Path
) -> Sample:
    files = [f for path in case.paths for f in ([path] if path.is_file() else sorted(path.rglob("*")))]
    made_from = [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    digest = hashlib.sha256(json.dumps([recipe, made_from]).encode()).hexdigest()[:16]
    stem = folder / f"{safe_name(case.id)}-{digest}"
    image_file, label_file = stem.with_name(f"{stem.name}-image.npy"), stem.with_name(f"{stem.name}.npy")
    # The label map is written last, so its presence implies that of the image.
    if not label_file.is_file():
        image, label = _on_network_grid(case, manifest, preprocessing)
        for file, array in ((image_file, image), (label_file, label)):
            with atomic_path(file) as partial:
                np.save(partial, array)
    centres = centres_of(np.load(label_file))
    # Windows are not centred on unlabelled voxels.
    return Sample(
        image_file, label_file, {v: c for v, c in centres.items() if v <= len(manifest.labels or ())}
    )


def _on_network_grid(
    case: Case, manifest: Manifest, preprocessing: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray]:
    study, labels = read_case(case, manifest)
    image = preprocessing({"image": study})["image"]
    x, y, z = (int(n) for n in image.shape[1:])
    target = Grid((x, y, z), np.asarray(image.affine, np.float64))
    # Half precision holds prepared intensities to a thousandth, on half the disk.
    return image.numpy().astype(np.float16), resample_labels(labels, study.grid, target)


class PatchDataset(SeededDataset):
    """Windows of samples, each a function of the seed and its index.

    Parameters
    ----------
    samples
        Prepared cases; each takes its turn once a round, in another order each round.
    patch_size
        Voxels of a window along all three axes; one along `slice_axis`.
    length
        Number of windows.
    transform
        Random MONAI transforms of ``{"image": (C, ...), "label": (1, ...)}``, given a window that is a tenth
        larger at each end; must crop it to `patch_size`.
    seed
        Seed of the random numbers; each seed gives different windows.
    slice_axis
        The axis that is dropped, for two-dimensional networks.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        patch_size: Sequence[int],
        length: int,
        transform: Compose,
        seed: int = 0,
        slice_axis: int | None = None,
    ) -> None:
        super().__init__(length, seed)
        self.samples, self.transform = samples, transform
        self.patch_size, self.slice_axis = np.array(patch_size), slice_axis

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``image`` (C, *patch) float32 and ``label`` (1, *patch) uint8 or int32."""
        turn, place = divmod(self.number(index), len(self.samples))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self.samples))
        random = np.random.default_rng([self.seed, turn, place])
        image, label = self._cut(self.samples[order[place]], random)
        self.transform.set_random_state(seed=int(random.integers(2**31)))
        cut = self.transform({"image": torch.from_numpy(image), "label": torch.from_numpy(label)})
        # Collating the place of each window in its study would take time, and it is not needed.
        return {key: convert_to_tensor(value, track_meta=False) for key, value in cut.items()}

    def _cut(self, sample: Sample, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = _opened(sample.label)
        shape = np.array(label.shape)
        margin = np.ceil(_MARGIN * self.patch_size).astype(int) * (self.patch_size > 1)
        centre = random.integers(shape)
        if sample.centres and random.random() < 0.5:
            structure = sample.centres[random.choice(list(sample.centres))]
            centre = structure[random.integers(len(structure))]
        # A window does not reach out of the image, unless the image is smaller.
        start = np.clip(centre - self.patch_size // 2, 0, np.maximum(shape - self.patch_size, 0))
        start = np.where(shape < self.patch_size, (shape - self.patch_size) // 2, start) - margin
        size = self.patch_size + 2 * margin
        parts = _read(_opened(sample.image), start, size), _read(label[None], start, size)
        if self.slice_axis is not None:
            parts = parts[0].squeeze(self.slice_axis + 1), parts[1].squeeze(self.slice_axis + 1)
        return parts[0].astype(np.float32), parts[1].astype(np.uint8 if label.itemsize == 1 else np.int32)


def _opened(array: np.ndarray | Path) -> np.ndarray:
    return np.load(array, mmap_mode="r") if isinstance(array, Path) else array


def _read(array: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A box of (C, X, Y, Z), zero outside, as the inferer fills up windows."""
    shape = np.array(array.shape[1:])
    low, high = np.clip(start, 0, shape), np.clip(start + size, 0, shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box = np.zeros((len(array), *size), array.dtype)
    where = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    box[(slice(None), *where)] = array[(slice(None), *inside)]
    return box
