"""Export of a bundle for other software: ONNX, TorchScript, or a zip of the bundle."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.bundles.find import Bundle
from medvit.bundles.self_contained import self_contained_files
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.bundles.write import write_files
from medvit.errors import MedvitError
from medvit.studies.files import atomic_path

if TYPE_CHECKING:
    from torch import nn

FORMATS = ("onnx", "torchscript", "zoo", "bundle")
# Scratch that a zip of a bundle leaves out.
_SCRATCH = ("eval", "runs", "__pycache__")


def export_bundle(bundle: Bundle, output: str | Path, form: str) -> Path:
    """Write a bundle's network, or the bundle as a whole, in another form.

    A network is exported for one window of the bundle, (1, C, *roi_size) float32, which is what its sliding
    window gives it. Preprocessing and windows are up to the software that runs it; ``configs/metadata.json``
    describes them.

    Parameters
    ----------
    bundle
        The bundle.
    output
        Folder for the file, which is named after the bundle and its version.
    form
        ``"onnx"`` (opset 18, input ``image``, output ``logits``), ``"torchscript"`` (scripted where the
        metadata says so, else traced), ``"zoo"`` (a zip of a bundle under its name for the model zoo, which
        MONAI runs without medvit), or ``"bundle"`` (a zip of the bundle as it is; it needs medvit to run).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MedvitError
        If the form is unknown, the bundle cannot run without medvit, or its network is not one of torch.
    MissingExtraError
        If ONNX is not installed.
    """
    if form not in FORMATS:
        raise MedvitError(f"there is no export format {form!r}; choose {', '.join(FORMATS)}")
    version = f"_v{bundle.version}"
    # Nothing of an export that fails is left, not even the folder.
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch)
        if form == "bundle":
            made = _zip(bundle, aside / f"{bundle.name}{version}.zip")
        else:
            opened = open_bundle(bundle, device="$torch.device('cpu')")
            write, name, suffix = {
                "zoo": (_self_contained, bundle.zoo_name, ".zip"),
                "torchscript": (_torchscript, bundle.name, ".ts"),
                "onnx": (_onnx, bundle.name, ".onnx"),
            }[form]
            made = write(opened, aside / f"{name}{version}{suffix}")
        with atomic_path(Path(output) / made.name) as partial:
            shutil.copyfile(made, partial)
    return Path(output) / made.name


def window_shape(opened: OpenBundle) -> tuple[int, ...]:
    """Shape of one window as the network takes it, (1, C, *roi_size)."""
    image = opened.bundle.metadata["network_data_format"]["inputs"]["image"]
    edges = opened.part("roi_size")[-len(image["spatial_shape"]) :]
    return (1, image["num_channels"], *edges)


def _zip(bundle: Bundle, file: Path) -> Path:
    folder = file.parent / bundle.name
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns(*_SCRATCH))
    return _archive(folder, file)


def _self_contained(opened: OpenBundle, file: Path) -> Path:
    _network(opened)
    folder = file.parent / opened.bundle.zoo_name
    write_files(folder, self_contained_files(opened))
    (folder / "models").mkdir()
    shutil.copy(opened.bundle.weights, folder / "models" / "model.pt")
    _torchscript(opened, folder / "models" / "model.ts")
    return _archive(folder, file)


def _archive(folder: Path, file: Path) -> Path:
    return Path(shutil.make_archive(str(file.with_suffix("")), "zip", folder.parent, folder.name))


def _network(opened: OpenBundle) -> nn.Module:
    """The bundle's network in eval mode, if it is one of torch."""
    from medvit.inference.backends import TITLES, compiled_in

    network: nn.Module = opened.part("network").eval()
    if compiled := compiled_in(network):
        original = opened.bundle.facts.get("quantised", {}).get("from", "the bundle that it was made from")
        raise MedvitError(
            f"the network of {opened.bundle.name} is compiled and runs by {TITLES[compiled.backend]} only; "
            f"export {original}, or give --format bundle"
        )
    return network


def _torchscript(opened: OpenBundle, file: Path) -> Path:
    import torch

    network = _network(opened)
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated, and tracing warns of every shape that it fixes, which is what a window of
        # one shape is for.
        warnings.simplefilter("ignore")
        if opened.bundle.facts.get("exports", {}).get("torchscript") == "script":
            traced = torch.jit.script(network)
        else:
            traced = torch.jit.trace(network, torch.rand(window_shape(opened)), check_trace=False)
    torch.jit.save(traced, str(file), _extra_files={"metadata.json": json.dumps(opened.bundle.metadata)})
    return file


def _onnx(opened: OpenBundle, file: Path) -> Path:
    import torch

    from medvit.inference.conversion import write_onnx

    write_onnx(_network(opened), torch.rand(window_shape(opened)), file)
    return file
