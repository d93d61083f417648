"""Export of a bundle for other software: ONNX, TorchScript, or a zip of the bundle."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from medvit.bundles.find import Bundle
from medvit.bundles.self_contained import self_contained_files
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.bundles.write import write_files
from medvit.errors import MedvitError
from medvit.studies.files import atomic_path

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
        If the form is unknown, or the bundle cannot run without medvit.
    MissingExtraError
        If ONNX is not installed.
    """
    if form not in FORMATS:
        raise MedvitError(f"there is no export format {form!r}; choose {', '.join(FORMATS)}")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{bundle.name}_v{bundle.version}"
    if form == "bundle":
        return _zip(bundle, folder / f"{name}.zip")
    opened = open_bundle(bundle, device="$torch.device('cpu')")
    if form == "zoo":
        return _self_contained(opened, folder / f"{bundle.zoo_name}_v{bundle.version}.zip")
    if form == "torchscript":
        return _torchscript(opened, folder / f"{name}.ts")
    return _onnx(opened, folder / f"{name}.onnx")


def window_shape(opened: OpenBundle) -> tuple[int, ...]:
    """Shape of one window as the network takes it, (1, C, *roi_size)."""
    image = opened.bundle.metadata["network_data_format"]["inputs"]["image"]
    edges = opened.part("roi_size")[-len(image["spatial_shape"]) :]
    return (1, image["num_channels"], *edges)


def _zip(bundle: Bundle, file: Path) -> Path:
    def fill(folder: Path) -> None:
        shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns(*_SCRATCH))

    return _archive(file, bundle.name, fill)


def _self_contained(opened: OpenBundle, file: Path) -> Path:
    files = self_contained_files(opened)

    def fill(folder: Path) -> None:
        write_files(folder, files)
        (folder / "models").mkdir()
        shutil.copy(opened.bundle.weights, folder / "models" / "model.pt")
        _torchscript(opened, folder / "models" / "model.ts")

    return _archive(file, opened.bundle.zoo_name, fill)


def _archive(file: Path, name: str, fill: Callable[[Path], object]) -> Path:
    """A zip of the folder `name` that `fill` makes, whole or not at all."""
    partial = file.with_name(f".partial-{file.stem}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        fill(partial / name)
        made = shutil.make_archive(str(partial / file.stem), "zip", partial, name)
        Path(made).replace(file)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return file


def _torchscript(opened: OpenBundle, file: Path) -> Path:
    import torch

    network = opened.part("network").eval()
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated, and tracing warns of every shape that it fixes, which is what a window of
        # one shape is for.
        warnings.simplefilter("ignore")
        if opened.bundle.facts.get("exports", {}).get("torchscript") == "script":
            traced = torch.jit.script(network)
        else:
            traced = torch.jit.trace(network, torch.rand(window_shape(opened)), check_trace=False)
    with atomic_path(file) as partial:
        extra = {"metadata.json": json.dumps(opened.bundle.metadata)}
        torch.jit.save(traced, str(partial), _extra_files=extra)
    return file


def _onnx(opened: OpenBundle, file: Path) -> Path:
    import torch

    from medvit.inference.conversion import write_onnx

    with atomic_path(file) as partial:
        write_onnx(opened.part("network"), torch.rand(window_shape(opened)), partial)
    return file
