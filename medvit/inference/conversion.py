"""Networks converted for other engines, once for each weights and window, in the user's cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import medvit.networks
from medvit import __version__
from medvit.errors import MedvitError, MissingExtraError
from medvit.inference.backends import TITLES, CompiledNetwork, cache_folder, require
from medvit.inference.execution import Network
from medvit.inference.graphs import first_level
from medvit.networks import LateralSegmenter

OPSET = 18
_FILES = {"openvino": "model.xml", "onnxruntime": "model.onnx"}
# OpenVINO ends the whole process for some networks (TransUNet), so the first try runs in another process.
_TRIAL = """
import sys, numpy, openvino
compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
compiled(numpy.zeros(tuple(compiled.input(0).shape), numpy.float32))
"""
_PLAIN = (int, float, str, bool, type(None))
# Compiled networks that stay in memory: those of an ensemble, or of a few bundles in one service.
_MOST_COMPILED = 4
_compiled: OrderedDict[tuple[str, bool], CompiledNetwork] = OrderedDict()


class ConversionError(MedvitError):
    """A network that an engine cannot run."""


class _FullResolution(nn.Module):
    """A network without its deep supervision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        return first_level(self.network(windows))


def fingerprint(network: nn.Module, shape: Sequence[int], backend: str) -> str:
    """Digest that identifies a converted network: weights, arguments, code, window and versions."""
    digest = hashlib.sha256()
    packages = {"openvino": ["openvino", "torch"], "onnxruntime": ["onnxscript", "torch"]}[backend]
    versions = [__version__, _source_digest(), *map(version, packages)]
    digest.update(json.dumps([backend, list(shape), versions]).encode())
    for name, module in network.named_modules():
        plain = {k: v for k, v in vars(module).items() if k[0] != "_" and k != "training" and _is_plain(v)}
        digest.update(repr((name, type(module).__qualname__, sorted(plain.items()))).encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def engine(network: Network, shape: Sequence[int], backend: str, *, bf16: bool = False) -> Network:
    """`network` for a backend: converted, or unchanged if it is already compiled.

    The sides of a `LateralSegmenter` stay with torch: engines take longer for them than they save elsewhere.

    Raises
    ------
    MissingExtraError, ConversionError
        Under the same conditions as `converted`; also for anything but a module.
    """
    if isinstance(network, CompiledNetwork):
        return network
    if isinstance(network, LateralSegmenter):
        return network.around(engine(network.network, shape, backend, bf16=bf16))
    if not isinstance(network, nn.Module):
        raise ConversionError(f"{TITLES[backend]} runs modules of torch only; use the backend torch")
    return converted(network, shape, backend, bf16=bf16)


def converted(
    network: nn.Module, shape: Sequence[int], backend: str, *, bf16: bool = False, folder: Path | None = None
) -> CompiledNetwork:
    """`network` for windows of one shape, as another engine runs it.

    It is converted at the first request and kept below `folder`, where other processes find it too: one
    converts it, and the others wait.

    Parameters
    ----------
    network
        (1, C, *roi_size) to logits (1, classes, *roi_size), on a CPU in float32.
    shape
        Channels and size of a window, (C, *roi_size).
    backend
        ``"openvino"`` or ``"onnxruntime"``.
    bf16
        Whether it computes in bfloat16.
    folder
        Folder of converted networks; `cache_folder` by default.

    Raises
    ------
    MissingExtraError
        If the engine is not installed.
    ConversionError
        If the engine cannot run the network.
    """
    require(backend)
    key = fingerprint(network, shape, backend)
    if (key, bf16) in _compiled:
        _compiled.move_to_end((key, bf16))
        return _compiled[key, bf16]
    kept = (folder or cache_folder()) / f"{backend}-{key[:32]}"
    file = kept / _FILES[backend]
    if not file.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if not file.is_file():
                _convert_into(kept, network, shape, backend)
    made = _compiled[key, bf16] = CompiledNetwork(file, bf16=bf16)
    if len(_compiled) > _MOST_COMPILED:
        _compiled.popitem(last=False)
    return made


def write_onnx(network: nn.Module, example: Tensor, file: Path) -> None:
    """The network as ONNX for windows of one shape: input ``image``, output ``logits``, opset `OPSET`.

    Raises
    ------
    MissingExtraError
        If ONNX is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("export to ONNX", "onnx") from error
    # A view of the fused attention's result, as the CPU lays it out, cannot be exported (Swin UNETR).
    with sdpa_kernel(SDPBackend.MATH):
        torch.onnx.export(
            network,
            (example,),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def openvino_model(network: nn.Module, example: Tensor) -> Any:
    """The network as an `openvino.Model` for windows of one shape."""
    import openvino

    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            program = torch.export.export(network, (example,), strict=False)
            model = openvino.convert_model(program)
    except Exception:
        # OpenVINO reads more operators from ONNX than from torch's own format (Swin UNETR).
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            write_onnx(network, example, file)
            model = openvino.convert_model(file)
    model.reshape({model.input(0): list(example.shape)})
    return model


def write_openvino(model: Any, file: Path) -> None:
    """An `openvino.Model` as ``.xml`` and ``.bin``, its weights as they are."""
    import openvino

    openvino.save_model(model, str(file), compress_to_fp16=False)


def _write_openvino_of(network: nn.Module, example: Tensor, file: Path) -> None:
    write_openvino(openvino_model(network, example), file)


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
    "openvino": _write_openvino_of,
    "onnxruntime": write_onnx,
}


def _convert_into(folder: Path, network: nn.Module, shape: Sequence[int], backend: str) -> None:
    """Convert into `folder`, which appears only once it holds everything that the engine reads."""
    title = TITLES[backend]
    print(f"converting the network for {title}, once for these weights (to {folder})", file=sys.stderr)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    whole = _FullResolution(network).eval()
    try:
        with warnings.catch_warnings():
            # The exporters of torch warn about their own internals.
            warnings.simplefilter("ignore")
            with torch.inference_mode(False):
                _WRITERS[backend](whole, torch.zeros(1, *shape), partial / _FILES[backend])
        if backend == "openvino":
            _try(partial / _FILES[backend])
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"{title} cannot run {type(network).__name__} ({reason}); use the backend torch"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _try(file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _TRIAL, str(file)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ends the process"])[-1])


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


@lru_cache
def _source_digest() -> str:
    """Digest of the networks' code, which may change while medvit's version stays the same."""
    digest = hashlib.sha256()
    for file in sorted(Path(medvit.networks.__path__[0]).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
