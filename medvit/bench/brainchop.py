"""Brainchop's MeshNet: the network from its list of layers, and the workflow from a study to a label map."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvit import __version__
from medvit.errors import WeightsError
from medvit.runs.done import input_sha256, study_folder
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Study, sha256_of
from medvit.studies.files import write_label_map
from medvit.studies.formats import read_study
from medvit.studies.grids import resample_onto
from medvit.studies.study import Grid
from medvit.transforms.components import largest_components

_EDGE = 256  # grid of 1 mm voxels into which a head is placed
_MARGIN = 18  # margin in voxels around the non-empty part


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whatever its suffix.

    Raises
    ------
    WeightsError
        If the file is not one.
    """
    content = bytearray(path.read_bytes())
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header: dict[str, Any] = json.loads(bytes(content[8:start]))
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            if entry["dtype"] != "F32":
                raise ValueError(f"{name} is {entry['dtype']}, not F32")
            first, end = entry["data_offsets"]
            values = np.frombuffer(content, np.float32, (end - first) // 4, start + first)
            tensors[name] = torch.from_numpy(values.reshape(entry["shape"]))
        return tensors
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: is not a safetensors file of float32 ({error})") from None


def mesh_net(layers: list[dict[str, Any]]) -> nn.Sequential:
    """Dilated convolutions with ELU between them (Fedorov et al. 2017), (1, 1, X, Y, Z) to classes."""
    convolutions = [
        nn.Conv3d(
            layer["in_channels"], layer["out_channels"], layer["kernel_size"], layer["stride"],
            layer["padding"], layer["dilation"],
        )
        for layer in layers
    ]  # fmt: skip
    assert all(a.out_channels == b.in_channels for a, b in pairwise(convolutions)), "layers fit each other"
    between = [part for layer in convolutions[:-1] for part in (layer, nn.ELU(inplace=True))]
    return nn.Sequential(*between, convolutions[-1])


class BrainchopWork:
    """Processes studies like brainchop, as `medvit.runs.bundle_work.BundleWork` does with a bundle.

    Parameters
    ----------
    model
        Folder with ``model.json`` and ``model.pth``.
    output_dir
        Folder in which each study gets a folder with ``labels.nii.gz``.
    """

    def __init__(self, model: Path, output_dir: Path) -> None:
        self.model = model
        self.output_dir = output_dir
        self.preload: tuple[str, ...] = ("torch",)

    def open(self) -> None:
        """Load the network.

        Raises
        ------
        WeightsError
            If the weights do not fit the layers.
        """
        layers = json.loads((self.model / "model.json").read_text(encoding="utf-8"))["layers"]
        self.network = mesh_net(layers).eval()
        tensors = read_safetensors(self.model / "model.pth")
        try:
            self.network.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items()})
        except RuntimeError as error:
            raise WeightsError(f"{self.model / 'model.pth'}: {error}") from None

    def made_by(self) -> dict[str, Any]:
        """Weights and list of layers."""
        weights, layers = (sha256_of(self.model / name) for name in ("model.pth", "model.json"))
        peer = f"brainchop {__version__}"
        return {"bundle": peer, "weights_sha256": weights, "layers_sha256": layers}

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Segment `study`; its label map lies on its own grid. Stages are timed in `outcome`."""
        from nibabel.nifti1 import Nifti1Image

        with outcome.timed("read"):
            loaded = read_study(study)
            image = Nifti1Image(loaded.image[0].numpy(), loaded.grid.affine)
        with outcome.timed("preprocess"):
            box, window, affine = conformed(image)
        with outcome.timed("infer"), torch.inference_mode():
            inside = self.network(torch.from_numpy(window)[None, None])[0].argmax(0).numpy()
        with outcome.timed("postprocess"):
            labels = np.zeros((_EDGE,) * 3, np.uint8)
            labels[box] = largest_components(inside.astype(np.uint8), frozenset())
            labels = resample_onto(loaded.grid, labels, Grid(labels.shape, affine), nearest=True)
        with outcome.timed("write"):
            outcome.inputs = input_sha256(study)
            made_from = self.made_by() | {"inputs": outcome.inputs}
            with study_folder(self.output_dir, study.id, made_from) as folder:
                write_label_map(folder / "labels.nii.gz", labels, loaded.grid)
            outcome.outputs = ["labels.nii.gz"]


def conformed(image: Any) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
    """A head in 256^3 voxels of 1 mm along L, I, A, with 256 grey levels, scaled between two quantiles.

    Returns
    -------
    box
        Box of the non-empty part and a margin around it.
    window
        Intensities in the box, float32, 0 to 1.
    affine
        Affine of the whole grid of 256^3 voxels.
    """
    from nibabel.processing import conform

    whole = conform(image, (_EDGE,) * 3, (1.0, 1.0, 1.0), order=1, orientation="LIA")
    values = np.asarray(whole.dataobj, np.float32)
    least = values.min()
    above = values[values > least]
    most = np.quantile(above, 0.999) if above.size else least + 1
    grey = np.clip(np.round((values - least) * (255 / max(most - least, 1e-6))), 0, 255)
    low, high = np.quantile(grey, [0.02, 0.98])
    scaled = np.clip((grey - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    where = [np.flatnonzero(grey.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    box = tuple(
        slice(max(int(w[0]) - _MARGIN, 0), int(w[-1]) + 1 + _MARGIN) if w.size else slice(None) for w in where
    )
    return box, np.ascontiguousarray(scaled[box]), whole.affine
