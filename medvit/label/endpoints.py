"""medvit's own endpoints: inference, export of bundles, and logging in with the server's token."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse, PlainTextResponse, Response
from monailabel.endpoints.infer import send_response
from monailabel.interfaces.utils.app import app_instance

from medvit.label import logs
from medvit.label.application import MedvitLabelApp
from medvit.label.errors import RequestError, file_name, not_found
from medvit.label.versions import export

infer_router = APIRouter(prefix="/infer", tags=["Infer"])
bundle_router = APIRouter(prefix="/bundle", tags=["Bundle"])
logs_router = APIRouter(prefix="/logs", tags=["Others"])


# Not `async`, so that it runs in a thread of its own and the server can answer others meanwhile.
@infer_router.post("/{model}", summary="Run Inference for supported model")
def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: Literal["image", "json", "all", "dicom_seg"] = "all",
) -> Any:
    """Infer an image of the store, of a session or in the request."""
    app: MedvitLabelApp = app_instance()
    app.task(model)
    folder = Path(tempfile.mkdtemp())
    background_tasks.add_task(shutil.rmtree, folder, ignore_errors=True)
    try:
        source = _source(app, image, session_id, file, folder)
        request = {**_parsed(params), "model": model, "image": source}
        if output == "dicom_seg":
            seg = app.infer_dicom_seg(request, folder / f"{model}.dcm")
            return FileResponse(seg, media_type="application/dicom", filename=seg.name)
        return send_response(app.datastore(), app.infer(request), output, background_tasks)
    except BaseException:
        # Background tasks only run after an answer.
        shutil.rmtree(folder, ignore_errors=True)
        raise


@bundle_router.get("/{model}", summary="Download a bundle, trained at this server or not")
def download_bundle(background_tasks: BackgroundTasks, model: str, version: str = "") -> FileResponse:
    """A version of a bundle as a zip file."""
    app: MedvitLabelApp = app_instance()
    bundle = app.task(model).served.bundle(version)
    folder = Path(tempfile.mkdtemp())
    background_tasks.add_task(shutil.rmtree, folder, ignore_errors=True)
    file = export(bundle, folder)
    return FileResponse(file, media_type="application/zip", filename=file.name)


@logs_router.get("/", summary="The latest lines of the server's log")
def server_log(lines: Annotated[int, Query(ge=1)] = 300) -> PlainTextResponse:
    """The last lines as text; MONAI Label's own page would load scripts from elsewhere."""
    return PlainTextResponse(logs.last(lines))


def login_router(token: str) -> APIRouter:
    """Endpoints by which a client learns whether it must log in, and logs in with the token as password."""
    router = APIRouter(prefix="/auth", tags=["Auth"])

    @router.get("/")
    def enabled() -> dict[str, bool]:
        return {"enabled": bool(token)}

    @router.post("/token")
    def log_in(password: Annotated[str, Form()], username: Annotated[str, Form()] = "") -> dict[str, str]:
        if not secrets.compare_digest(password.encode(), token.encode()):
            raise RequestError("this is not the server's token; give it as the password", 401)
        return {"access_token": token, "token_type": "Bearer"}

    @router.get("/token/valid")
    def valid() -> Response:
        return Response(status_code=200)

    return router


def _source(
    app: MedvitLabelApp, image: str, session_id: str, file: UploadFile | None, folder: Path
) -> str | Path:
    if session_id:
        session = app.sessions().get_session(session_id) if session_id.replace("-", "").isalnum() else None
        if session is None:
            raise not_found("session", session_id, [])
        return Path(session.image)
    if file is not None:
        path = folder / file_name(Path(file.filename or "image.nii.gz").name)
        with path.open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        return path
    if not image:
        raise RequestError("no image: give the identifier of one, a session, or a file")
    return image


def _parsed(params: str) -> dict[str, Any]:
    try:
        parsed = json.loads(params or "{}")
    except ValueError as error:  # a number can be too long for Python, too
        raise RequestError(f"params is not JSON: {error}", 400) from None
    except RecursionError:
        raise RequestError("params is nested too deeply", 400) from None
    if not isinstance(parsed, dict):
        raise RequestError("params must be a JSON object", 400)
    return parsed
