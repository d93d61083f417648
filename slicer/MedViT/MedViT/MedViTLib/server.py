"""A `medvit label` server, or any other of MONAI Label: volumes go there and results come back over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .compute import AS_THE_BUNDLE_HAS_IT, BundleInfo, Job, Result, Settings
from .errors import MedViTError
from .nifti import read_nifti, write_nifti
from .volume import Volume, as_label_map, volumes_ml

_CONNECT_SECONDS = 10.0


class ServerEngine:
    """A server that speaks the protocol of MONAI Label.

    Parameters
    ----------
    address
        Address of the server, such as ``http://127.0.0.1:8000``.
    token
        Token with which the server was started.
    patience
        Seconds that an inference may take.

    Raises
    ------
    MedViTError
        If this is not an address.
    """

    def __init__(self, address: str, token: str = "", patience: float = 3600.0) -> None:
        self.address = address.strip().rstrip("/")
        self.patience = patience
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            parts = urlsplit(self.address)
            self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        except ValueError:
            self._host = ""
        if not self._host or parts.scheme not in ("http", "https"):
            raise MedViTError(
                f"{address!r} is not the address of a server; give one such as http://127.0.0.1:8000"
            )
        secure = parts.scheme == "https"
        self._connection = http.client.HTTPSConnection if secure else http.client.HTTPConnection

    def bundles(self) -> list[BundleInfo]:
        """The bundles that the server has.

        Raises
        ------
        MedViTError
            If the server is not there, or is not a server of MONAI Label.
        """
        return [_bundle_info(name, model) for name, model in self._models().items()]

    def run(
        self, bundle: str, volume: Volume, folder: Path, job: Job, settings: Settings = AS_THE_BUNDLE_HAS_IT
    ) -> Result:
        """Send a volume for inference and wait for the result.

        Raises
        ------
        MedViTError
            If the server is gone, has no such bundle, or refuses the volume.
        """
        job.report("asking the server")
        models = self._models()
        if bundle not in models:
            raise MedViTError(f"the server at {self.address} has no bundle {bundle!r}; choose another")
        labels = label_names(models[bundle].get("labels"), bundle)
        job.report("sending the volume")
        image = write_nifti(folder / volume.file_name, volume)
        # Restored images would be rounded to the integers that label maps consist of.
        dtype = "uint16" if labels else "float32"
        wanted = {"result_extension": ".nii.gz", "result_dtype": dtype, **_params(settings)}
        kind, body = encode_form({"params": json.dumps(wanted)}, {"file": image})
        image.unlink()
        connection = self._open(self.patience)
        # The connection lets go of its socket once the answer begins.
        wire = connection.sock
        with job.stoppable(lambda: _hang_up(wire)):
            path = f"/infer/{quote(bundle, safe='')}?image={quote(volume.name, safe='')}&output=all"
            job.report("waiting for the server")
            headers, content = self._exchange(connection, "POST", path, body, {"Content-Type": kind})
        job.report("reading the result")
        return _read_answer(headers, content, volume, labels)

    def _models(self) -> dict[str, dict[str, Any]]:
        _, content = self._exchange(self._open(_CONNECT_SECONDS), "GET", "/info/")
        try:
            models = json.loads(content)["models"]
            return {str(name): dict(model) for name, model in models.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise MedViTError(f"{self.address} is not a server of MONAI Label; correct the address") from None

    def _open(self, patience: float) -> http.client.HTTPConnection:
        connection = self._connection(self._host, self._port, timeout=_CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise MedViTError(
                f"no server answers at {self.address} ({error.strerror or error}); start one with "
                "`medvit label FOLDER`, or correct the address"
            ) from None
        connection.sock.settimeout(patience)
        return connection

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPMessage, bytes]:
        try:
            connection.request(method, self._path + path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        except socket.timeout:  # noqa: UP041 (another class than TimeoutError in Python 3.9)
            raise MedViTError(f"the server at {self.address} did not answer in time") from None
        except (OSError, http.client.HTTPException):
            raise MedViTError(
                f"the server at {self.address} went away while it was asked; look whether it still runs"
            ) from None
        finally:
            connection.close()
        if response.status != 200:
            raise MedViTError(self._refusal(response.status, content))
        return response.headers, content

    def _refusal(self, status: int, content: bytes) -> str:
        """The sentence with which a server refuses, or one of our own if it gives none."""
        try:
            detail = json.loads(content)["detail"]
        except (ValueError, KeyError, TypeError):
            detail = ""
        if isinstance(detail, str) and detail:
            return detail
        return f"the server at {self.address} failed (HTTP {status}) and did not say why; its log does"


def _bundle_info(name: str, model: dict[str, Any]) -> BundleInfo:
    options = model.get("config")
    versions = options.get("version") if isinstance(options, dict) else None
    stated = versions if isinstance(versions, list) else [model.get("version")]
    return BundleInfo(name, model.get("description") or "", versions=tuple(str(v) for v in stated if v))


def _params(settings: Settings) -> dict[str, Any]:
    """The options that were set, under the names by which the server knows them."""
    device = {"gpu": "cuda"}.get(settings.device, settings.device)
    overlap = float(settings.overlap) if settings.overlap else None
    params = {"device": device, "version": settings.version, "overlap": overlap, "tta": settings.tta or None}
    return {name: value for name, value in params.items() if value not in ("", None)}


def label_names(labels: Any, bundle: str) -> tuple[str, ...]:
    """Names of the values 1, 2, ... as ``/info/`` states them: a list, or values by name.

    Raises
    ------
    MedViTError
        If the values do not run from 1 without a gap: 3D Slicer names labels by position.
    """
    values = {name: k for k, name in enumerate(labels, start=1)} if isinstance(labels, list) else labels or {}
    values = {name: value for name, value in values.items() if value != 0}
    if set(values.values()) != set(range(1, len(values) + 1)):
        raise MedViTError(
            f"the labels of {bundle} are not numbered from 1 without a gap, so none can be named"
        )
    return tuple(sorted(values, key=values.__getitem__))


def encode_form(fields: dict[str, str], files: dict[str, Path]) -> tuple[str, bytes]:
    """Content type and body of a form with files (RFC 7578)."""
    boundary = secrets.token_hex(16)
    body = b""
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        body += head.encode() + value.encode() + b"\r\n"
    for name, path in files.items():
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="{path.name}"'
        head = f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
        body += head.encode() + path.read_bytes() + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


def decode_form(headers: http.client.HTTPMessage, content: bytes) -> dict[str, bytes]:
    """The parts of a form by name, files among them (RFC 7578)."""
    boundary = headers.get_boundary()
    if not boundary:
        raise MedViTError("the server's answer is not a form; it may not be a server of MONAI Label")
    parts = {}
    for part in (b"\r\n" + content).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        _, _, name = head.decode(errors="replace").partition('name="')
        parts[name.partition('"')[0]] = value
    return parts


def _read_answer(
    headers: http.client.HTTPMessage, content: bytes, volume: Volume, labels: tuple[str, ...]
) -> Result:
    parts = decode_form(headers, content)
    if "image" not in parts:
        raise MedViTError("the server answered without an image")
    result = read_nifti(parts["image"], volume.name)
    try:
        params = json.loads(parts.get("params", b"{}"))
        notes = tuple(str(note) for note in params.get("notes", ()))
        verdict = params.get("verdict", {})
        judged = ": ".join(str(verdict[k]) for k in ("light", "finding") if verdict.get(k))
        stated = {str(k): float(v) for k, v in params.get("volumes_ml", {}).items()}
    except (ValueError, TypeError, AttributeError):
        raise MedViTError(
            "the server's answer cannot be read; it may not be a server of MONAI Label"
        ) from None
    if not labels:
        return Result(result, notes=notes, verdict=judged)
    label_map = as_label_map(result, labels)
    return Result(label_map, labels, stated or volumes_ml(label_map, labels), notes, verdict=judged)


def _hang_up(wire: socket.socket) -> None:
    # The other side may have hung up first.
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
