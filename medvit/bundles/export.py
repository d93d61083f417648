"""A bundle in forms that other software runs: ONNX, TorchScript, or a zip in the model zoo's layout."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

from medvit.bundles.find import Bundle
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.errors import MedvitError, MissingExtraError
from medvit.studies.files import atomic_path

FORMATS = ("onnx", "torchscript", "zoo")
OPSET = 18
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
        ``"onnx"`` (opset `OPSET`, input ``image``, output ``logits``), ``"torchscript"`` (traced), or
        ``"zoo"`` (a zip that ``python -m monai.bundle`` takes; it needs medvit to run).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MedvitError
        If there is no such form.
    MissingExtraError
        If ONNX is not installed.
    """
    if form not in FORMATS:
        raise MedvitError(f"there is no export format {form!r}; choose {', '.join(FORMATS)}")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{bundle.name}_v{bundle.version}"
    if form == "zoo":
        return _zip(bundle, folder / f"{name}.zip")
    opened = open_bundle(bundle, device="$torch.device('cpu')")
    if form == "torchscript":
        return _trace(opened, folder / f"{name}.ts")
    return _onnx(opened, folder / f"{name}.onnx")


def window_shape(opened: OpenBundle) -> tuple[int, ...]:
    """Shape of one window as the network takes it, (1, C, *roi_size)."""
    image = opened.bundle.metadata["network_data_format"]["inputs"]["image"]
    edges = opened.part("roi_size")[-len(image["spatial_shape"]) :]
    return (1, image["num_channels"], *edges)


def _zip(bundle: Bundle, file: Path) -> Path:
    partial = file.with_name(f".partial-{file.stem}")
    try:
        shutil.copytree(bundle.path, partial / bundle.name, ignore=shutil.ignore_patterns(*_SCRATCH))
        made = shutil.make_archive(str(partial / file.stem), "zip", partial, bundle.name)
        Path(made).replace(file)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return file


def _trace(opened: OpenBundle, file: Path) -> Path:
    import torch

    example = torch.rand(window_shape(opened))
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of every shape that it fixes, which is what a window of one shape is for.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(opened.part("network"), example, check_trace=False)
    with atomic_path(file) as partial:
        extra = {"metadata.json": json.dumps(opened.bundle.metadata)}
        torch.jit.save(traced, str(partial), _extra_files=extra)
    return file


def _onnx(opened: OpenBundle, file: Path) -> Path:
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("export to ONNX", "onnx") from error
    from torch.nn.attention import SDPBackend, sdpa_kernel

    example = torch.rand(window_shape(opened))
    # A view of the fused attention's result, as the CPU lays it out, cannot be exported (Swin UNETR).
    with atomic_path(file) as partial, sdpa_kernel(SDPBackend.MATH):
        torch.onnx.export(
            opened.part("network"),
            (example,),
            str(partial),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return file
