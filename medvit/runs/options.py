"""The options of a run, checked at once: before torch is imported and before a study is opened."""

from __future__ import annotations

import ctypes
import glob
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from numbers import Real
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, did_you_mean

DEVICES = "auto, cpu, cuda, cuda:N, gpu or mps"
PRECISIONS = ("bf16", "fp16", "off")
BACKENDS = ("auto", "torch", "openvino", "onnxruntime")
# Set in the environment, this keeps the log lines of other libraries out of the output of workers.
SILENT = "MEDVIT_SILENT_LIBRARIES"


def checked_device(name: str) -> str:
    """The device under the name that torch has for it; ``"auto"`` stays.

    Parameters
    ----------
    name
        One of `DEVICES`; ``"gpu"`` stands for whichever kind this machine has.

    Raises
    ------
    MedvitError
        If the device is unknown, or not available on this machine.
    """
    wanted = name.strip().lower()
    if wanted == "gpu":
        wanted = "mps" if sys.platform == "darwin" else "cuda"
    if wanted in ("auto", "cpu"):
        return wanted
    if wanted == "mps":
        if sys.platform != "darwin" or not _torch_has("mps"):
            raise MedvitError(
                "device mps: this machine has no Apple GPU that torch can use; use --device cpu"
            )
        return wanted
    if not re.fullmatch(r"cuda(:\d+)?", wanted):
        hint = did_you_mean(wanted, ("auto", "cpu", "cuda", "gpu", "mps"))
        raise MedvitError(f"there is no device {name!r}{hint}; choose {DEVICES}")
    if not _has_driver() or not _torch_has("cuda"):
        raise MedvitError(f"device {name}: torch finds no CUDA GPU on this machine; use --device cpu or auto")
    import torch

    if (index := int(wanted.partition(":")[2] or 0)) >= (count := torch.cuda.device_count()):
        raise MedvitError(
            f"device {name}: this machine has {count} CUDA devices, cuda:0 to cuda:{count - 1}"
            f", not cuda:{index}"
        )
    return wanted


def checked_overlap(overlap: float | None) -> float | None:
    """The share by which windows overlap, in [0, 1).

    Raises
    ------
    MedvitError
        If it is outside this range.
    """
    if overlap is not None and not (isinstance(overlap, Real) and 0.0 <= overlap < 1.0):
        raise MedvitError(f"overlap must be a number of at least 0 and below 1, not {overlap!r}")
    return overlap


def execution_settings(amp: str = "off", tf32: bool = False, backend: str = "torch") -> dict[str, Any]:
    """How networks run, as values of a bundle's configuration by identifier; nothing for the defaults.

    Whether the device supports them is checked later: see `medvit.inference.Execution.check`.

    Parameters
    ----------
    amp
        ``"bf16"`` or ``"fp16"``; ``"off"`` for float32.
    tf32
        Whether a GPU may round the factors of float32 products to 10 bits.
    backend
        What runs the networks: ``"torch"``, ``"openvino"``, ``"onnxruntime"``, or ``"auto"`` for what the
        bundle's metadata show to be faster and to give the same labels.

    Raises
    ------
    MedvitError
        If there is no such precision or backend.
    """
    if amp not in PRECISIONS:
        hint = did_you_mean(str(amp), PRECISIONS)
        raise MedvitError(f"there is no precision {amp!r}{hint}; choose {' or '.join(PRECISIONS)}")
    if backend not in BACKENDS:
        hint = did_you_mean(str(backend), BACKENDS)
        raise MedvitError(f"there is no backend {backend!r}{hint}; choose {', '.join(BACKENDS)}")
    chosen: dict[str, Any] = {"amp": amp} if amp != "off" else {}
    if tf32:
        chosen["tf32"] = True
    if backend != "torch":
        chosen["backend"] = backend
    if not chosen:
        return {}
    # Results computed with other settings say so, and do not count as equal.
    stated = {f"writer#settings#{name}": value for name, value in chosen.items()}
    execution = {"_target_": "medvit.inference.Execution", **chosen}
    if backend == "auto":
        execution |= {"_target_": "medvit.bundles.execution_for", "bundle_root": "@bundle_root"}
        execution["device"] = "@device"
        stated["writer#settings#backend"] = "$@inferer#execution.backend"
        del execution["backend"]
    return {"inferer#execution": execution} | stated


def named_structures(names: str | Sequence[str]) -> list[str]:
    """The names of structures in a list, or in a text with commas between them.

    Raises
    ------
    MedvitError
        If a text names none.
    """
    listed = names.split(",") if isinstance(names, str) else names
    chosen = [name.strip() for name in listed if name.strip()]
    # An empty text as well: an unset shell variable must not choose everything.
    if not chosen and (names or isinstance(names, str)):
        raise MedvitError(f"structures {names!r}: names no structure")
    return chosen


def checked_output(folder: Path) -> Path:
    """A folder to which results can be written, whether it exists or has yet to be made.

    Raises
    ------
    MedvitError
        If it is a file, or nothing can be written there.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise MedvitError(f"{there} is a file; give a folder for the results")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = f"{there}: nothing can be written there ({error.strerror})"
        raise MedvitError(f"{what}; give another folder for the results") from None
    return folder


def checked_output_file(file: Path) -> Path:
    """A file in a folder to which it can be written, whether that exists or has yet to be made.

    Raises
    ------
    MedvitError
        As `checked_output`.
    """
    return checked_output(file.parent) / file.name


def checked_inputs(inputs: Sequence[str]) -> Sequence[str]:
    """Files, folders, globs or manifests, at least one of which exists.

    Raises
    ------
    MedvitError
        If none exists.
    """
    if not any(Path(path).exists() or glob.has_magic(path) for path in inputs):
        raise MedvitError(f"{', '.join(map(str, inputs))}: does not exist; check the path")
    return inputs


def checked_manifest(manifest: str) -> str:
    """A manifest, by its path or by the name of one that came with medvit.

    Raises
    ------
    MedvitError
        If it does not exist.
    """
    from medvit.studies.manifests.read import installed_manifests

    if not Path(manifest).expanduser().exists() and manifest not in (known := installed_manifests()):
        raise MedvitError(f"there is no manifest {manifest}{did_you_mean(manifest, known)}; check the path")
    return manifest


def checked_images(place: str) -> str:
    """A folder of images, or the address of a DICOMweb service.

    Raises
    ------
    MedvitError
        If it is neither.
    """
    if place and "://" not in place and not Path(place).is_dir():
        raise MedvitError(f"{place} is neither a folder nor an address; give a folder of images")
    return place


def languages() -> list[str]:
    """Codes of the languages that reports can be written in."""
    locales = files("medvit.reports") / "locales"
    return sorted(file.name.removesuffix(".json") for file in locales.iterdir())


def checked_language(code: str) -> str:
    """The code of a language that reports can be written in.

    Raises
    ------
    MedvitError
        If the language is unknown.
    """
    known = languages()
    if re.split(r"[-_.]", code.lower())[0] not in known:
        hint = did_you_mean(code, known)
        raise MedvitError(f"there is no report in language {code!r}{hint}; choose one of {', '.join(known)}")
    return code


def checked_priors(paths: Iterable[str]) -> list[str]:
    """``measurements.json`` of earlier studies; their content is checked when they are read.

    Raises
    ------
    MedvitError
        If one is not JSON, or states its date in another form than ``FILE@YYYY-MM-DD``.
    """
    paths = list(paths)
    if not paths:
        return []
    from medvit.reports.dates import prior_and_date

    for path in paths:
        file = prior_and_date(path)[0]
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not JSON"
            raise MedvitError(f"{file}: not a readable measurements.json ({why})") from None
    return paths


def _has_driver() -> bool:
    # Quick to find out, whereas importing torch takes seconds. AMD's devices count as "cuda" too.
    if os.path.exists("/dev/kfd"):  # noqa: PTH110
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _torch_has(kind: str) -> bool:
    import torch

    return bool(torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available())
