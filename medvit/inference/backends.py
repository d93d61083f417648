"""Engines other than torch that run a network on a CPU: OpenVINO and ONNX Runtime."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from medvit.errors import MedvitError, MissingExtraError, did_you_mean

Backend = Literal["torch", "openvino", "onnxruntime"]

BACKENDS: tuple[Backend, ...] = ("torch", "openvino", "onnxruntime")
TITLES = {"torch": "torch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
# The required module and the extra that installs it; a network reaches ONNX Runtime through onnxscript.
_NEEDS = {
    "torch": ("torch", ""),
    "openvino": ("openvino", "openvino"),
    "onnxruntime": ("onnxruntime onnxscript", "onnxruntime"),
}


def checked_backend(name: str) -> str:
    """`name`, if a backend of that name exists.

    Raises
    ------
    MedvitError
        If there is none.
    """
    if name not in BACKENDS:
        suggestion = did_you_mean(name, BACKENDS)
        raise MedvitError(f"there is no backend {name!r}{suggestion}; choose {', '.join(BACKENDS)}")
    return name


def installed(backend: str) -> bool:
    """Whether a backend can be used here."""
    return all(importlib.util.find_spec(package) for package in _NEEDS[backend][0].split())


def require(backend: str) -> None:
    """Raise `MissingExtraError` if a backend is not installed."""
    if not installed(backend):
        raise MissingExtraError(f"the backend {backend}", _NEEDS[backend][1])


def cache_folder() -> Path:
    """Folder of converted networks; it may be removed at any time, as may ``compiled`` beside it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "medvit" / "networks"


class CompiledNetwork(nn.Module):
    """A network in a file of OpenVINO (``.xml`` with its ``.bin``) or ONNX, run on a CPU.

    The file is read and compiled at the first window, with as many threads as torch has then, and again if
    that number changes. It is made for windows of one shape; a batch is processed window by window.

    Parameters
    ----------
    file
        The network. Its input is (1, C, *roi_size) float32.
    bf16
        Whether OpenVINO may compute in bfloat16, where the CPU has instructions for it.

    Raises
    ------
    MissingExtraError
        If the engine is not installed.
    MedvitError
        If the file is missing.
    """

    def __init__(self, file: Path | str, *, bf16: bool = False) -> None:
        super().__init__()
        self.file, self.bf16 = Path(file), bf16
        self.backend = "openvino" if self.file.suffix == ".xml" else "onnxruntime"
        require(self.backend)
        if not self.file.is_file():
            raise MedvitError(f"{self.file}, the network for {TITLES[self.backend]}, is missing")
        self._session: Any = None
        self._threads = 0

    def forward(self, windows: Tensor) -> Tensor:
        """(B, C, *roi_size) to (B, classes, *roi_size), float32 on the CPU.

        Raises
        ------
        MedvitError
            If the network was made for windows of another shape.
        """
        if self._session is None or self._threads != torch.get_num_threads():
            self._threads = torch.get_num_threads()
            self._session = self._compiled()
        made_for = self._session.shape
        if tuple(windows.shape[1:]) != made_for[1:]:
            raise MedvitError(
                f"{self.file.name} is made for windows of {_times(made_for[1:])}, not "
                f"{_times(windows.shape[1:])}: leave roi_size as it is, or use the backend torch"
            )
        given = windows.to("cpu", torch.float32).contiguous().numpy()
        answer: Tensor | None = None
        for number in range(len(given)):
            # The engine writes its next answer over the last one, which is why each is copied at once.
            one = torch.from_numpy(self._session(given[number : number + 1]))
            answer = one.new_empty(len(given), *one.shape[1:]) if answer is None else answer
            answer[number] = one[0]
        assert answer is not None, "a batch holds a window"
        return answer

    def _compiled(self) -> Any:
        make = _OpenVINOSession if self.backend == "openvino" else _OnnxSession
        return make(self.file, self._threads, self.bf16)


@contextmanager
def _alone_with_compiled(file: Path) -> Iterator[dict[str, str]]:
    """Options that make OpenVINO keep what it compiles, and find it in the next process; one at a time.

    The folder is named by the content of both files, so that other weights at the same place are compiled
    anew. Where nothing can be written, nothing is kept.
    """
    parts = [part for part in (file, file.with_suffix(".bin")) if part.is_file()]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in parts))
    folder = cache_folder().with_name("compiled") / digest.hexdigest()[:32]
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield {}
        return
    try:
        yield {"CACHE_DIR": str(folder)}
    finally:
        lock.release()


def compiled_in(network: Any) -> CompiledNetwork | None:
    """The part of a network that another engine runs, if there is one."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return next((module for module in modules if isinstance(module, CompiledNetwork)), None)


def _times(shape: Any) -> str:
    return " x ".join(map(str, shape))


class _OpenVINOSession:
    def __init__(self, file: Path, threads: int, bf16: bool) -> None:
        import openvino

        # By default, OpenVINO would use bfloat16 on every CPU that has instructions for it.
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            with _alone_with_compiled(file) as cache:
                self.compiled = openvino.Core().compile_model(str(file), "CPU", options | cache)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise MedvitError(
                f"{file}: OpenVINO cannot read it ({reason}); convert or download it again"
            ) from error
        self.shape = tuple(self.compiled.input(0).shape)

    def __call__(self, window: np.ndarray) -> np.ndarray:
        # A view of the engine's memory: the caller copies it.
        answer: np.ndarray = self.compiled(window, share_inputs=True, share_outputs=True)[0]
        return answer


class _OnnxSession:
    def __init__(self, file: Path, threads: int, bf16: bool) -> None:
        import onnxruntime

        if bf16:
            raise MedvitError("ONNX Runtime computes in float32 on a CPU; leave out --amp")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        entry = self.session.get_inputs()[0]
        self.name, self.shape = entry.name, tuple(entry.shape)

    def __call__(self, window: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.name: window})[0]
