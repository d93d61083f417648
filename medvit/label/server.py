"""The server process: MONAI Label's endpoints for our app, in the label environment."""

from __future__ import annotations

import argparse
import asyncio
import base64
import inspect
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import UploadFile

from medvit.errors import MedvitError
from medvit.label import compat, logs
from medvit.label.errors import file_name, not_found
from medvit.label.launch import LOOPBACK
from medvit.studies.scratch import lasting_scratch_folder

_APP_DIR = Path(__file__).parent / "app"


def main() -> int:
    """Serve until a signal ends it."""
    arguments = _arguments()
    token = os.environ.pop("MEDVIT_LABEL_TOKEN", "")
    logs.keep()
    logging.getLogger("medvit").setLevel(logging.INFO)
    # It logs its timers, and sets its own level.
    logging.getLogger("timeloop").addFilter(lambda _: False)
    # Uvicorn raises the signal again once it has ended, and only an ordinary end cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if arguments.parent and os.name == "posix":
        threading.Thread(target=_end_with, args=(arguments.parent,), daemon=True).start()
    # All temporary files go there, MONAI Label's own too; a killed server's are removed at the next start.
    tempfile.tempdir = os.environ["TMPDIR"] = str(lasting_scratch_folder())
    workspace = arguments.workspace.resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    configure(arguments, workspace)
    # MONAI Label reads a .env file in the working directory.
    os.chdir(workspace)
    compat.install()
    import uvicorn

    try:
        app = make_app(token, arguments.host, arguments.allow_origin)
    except MedvitError as error:
        print(f"medvit: {error}", file=sys.stderr)
        return 1
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_config=None, access_log=False)
    return 0


def _end_with(parent: int) -> None:
    """End when the process that started this one is gone, even if it was killed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def configure(arguments: argparse.Namespace, workspace: Path) -> None:
    """Tell MONAI Label and its background tasks what to serve; they take that from the environment."""
    remote = arguments.studies.startswith(("http://", "https://"))
    conf = {
        "models": ",".join(_found_from_anywhere(m) for m in arguments.models),
        "trust": "true" if arguments.trust else "false",
        "amp": arguments.amp,
        "tf32": "true" if arguments.tf32 else "false",
        "backend": arguments.backend,
        "query": json.dumps(dict(part.split("=", 1) for part in arguments.query)),
        "workspace": str(workspace),
    }
    os.environ |= {
        "MONAI_LABEL_APP_DIR": str(_APP_DIR),
        "MONAI_LABEL_STUDIES": arguments.studies if remote else str(Path(arguments.studies).resolve()),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
        "MONAI_LABEL_SERVER_PORT": str(arguments.port),
        "MONAI_LABEL_DICOMWEB_USERNAME": os.environ.get("MEDVIT_PACS_USER", ""),
        "MONAI_LABEL_DICOMWEB_PASSWORD": os.environ.get("MEDVIT_PACS_PASSWORD", ""),
        "MONAI_LABEL_SESSION_PATH": str(workspace / "sessions"),
        # Scoring infers every image, so it runs only when a person asks for it, not after each click.
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    }


def make_app(token: str, host: str, origins: Sequence[str] = ()) -> Any:
    """The ASGI application.

    Parameters
    ----------
    token
        Token that every request must carry; empty for none.
    host
        The address that is bound.
    origins
        Pages of other servers that may use this one, such as ``https://viewer.example.org``.

    Raises
    ------
    MedvitError
        If a bundle cannot be served.
    """
    from fastapi import Depends, FastAPI
    from fastapi.middleware.cors import CORSMiddleware
    from monailabel import endpoints
    from monailabel.endpoints import (  # noqa: F401
        activelearning,
        batch_infer,
        datastore,
        info,
        model,
        scoring,
        session,
        train,
    )
    from monailabel.interfaces.utils.app import app_instance

    from medvit.label.endpoints import bundle_router, infer_router, login_router, logs_router
    from medvit.label.viewer import viewer_router

    instance = app_instance()
    instance.check_weights()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        instance.server_mode(True)
        instance.on_init_complete()
        yield
        _stop_tasks()
        instance.datastore().close()

    app = FastAPI(title="medvit", description=instance.description, docs_url="/", lifespan=lifespan)
    app.include_router(login_router(token))
    app.include_router(infer_router)
    app.include_router(bundle_router)
    app.include_router(logs_router)
    for name in ("info", "batch_infer", "train", "activelearning", "scoring", "datastore", "session"):
        router = in_threads(getattr(endpoints, name).router)
        app.include_router(router, dependencies=[Depends(_known)])
    for route in model.router.routes:
        # Only training changes weights; uploaded ones would be opened without a check.
        if route.methods == {"GET"}:
            app.router.routes.append(route)
    app.include_router(viewer_router)
    _answer_errors(app)
    app.middleware("http")(_guard(token, host, origins))
    if origins:
        # Added last, so that it runs first: a browser sends a preflight request without the token.
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type"], expose_headers=["Content-Disposition"],
        )  # fmt: skip
    return app


def in_threads(router: Any) -> Any:
    """A router whose endpoints run in threads.

    MONAI Label declares endpoints as `async` that never wait, so each one blocks all others.
    """
    for route in router.routes:
        if inspect.iscoroutinefunction(route.endpoint):
            route.endpoint = _in_thread(route.endpoint)
    return router


def _in_thread(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    def run(**arguments: Any) -> Any:
        for value in arguments.values():
            for upload in value if isinstance(value, list) else [value]:
                if isinstance(upload, UploadFile) and upload.filename:
                    file_name(Path(upload.filename).name)
        try:
            return asyncio.run(endpoint(**arguments))  # type: ignore[arg-type]
        except BaseException:
            # They remove what was uploaded, but are otherwise only run after an answer.
            if tasks := arguments.get("background_tasks"):
                asyncio.run(tasks())
            raise

    run.__name__ = endpoint.__name__
    run.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return run


def _known(request: Request) -> None:
    """Refuse models and methods that are not served, which background tasks would only find out later."""
    from monailabel.interfaces.utils.app import app_instance

    served = app_instance().info()
    for kind, where in (("model", "trainers"), ("method", "scoring"), ("strategy", "strategies")):
        name = request.path_params.get(kind)
        where = "models" if request.url.path.startswith("/batch") else where
        if name is not None and name not in served[where]:
            raise not_found(kind, name, list(served[where]))


def _answer_errors(app: Any) -> None:
    """Answer users' errors with a sentence and a 4xx status, and internal errors as such."""
    from fastapi.responses import JSONResponse
    from monailabel.interfaces.exception import (
        ImageNotFoundException,
        LabelNotFoundException,
        MONAILabelException,
    )
    from requests.exceptions import RequestException

    def answer(status: int, sentence: str) -> JSONResponse:
        return JSONResponse({"detail": sentence}, status)

    @app.exception_handler(MedvitError)
    def refused(_: Request, error: MedvitError) -> JSONResponse:
        return answer(getattr(error, "status", 422), str(error))

    @app.exception_handler(MONAILabelException)
    def unknown(_: Request, error: Any) -> JSONResponse:
        missing = isinstance(error, ImageNotFoundException | LabelNotFoundException)
        return answer(404 if missing else 400, str(error.msg))

    @app.exception_handler(RequestException)
    def archive(_: Request, error: RequestException) -> JSONResponse:
        return answer(502, f"the archive could not be used ({type(error).__name__}); check that it runs")

    @app.exception_handler(json.JSONDecodeError)
    def not_json(_: Request, error: json.JSONDecodeError) -> JSONResponse:
        return answer(400, f"params is not JSON: {error}")

    @app.exception_handler(RecursionError)
    def too_deep(_: Request, error: RecursionError) -> JSONResponse:
        return answer(400, "params is nested too deeply")

    @app.exception_handler(Exception)
    def fallen(_: Request, error: Exception) -> JSONResponse:
        return answer(500, f"the server failed with {type(error).__name__}: {error}; its log has more")


def _guard(token: str, host: str, origins: Sequence[str]) -> Callable[..., Awaitable[Any]]:
    """Admit requests that carry the token and, among those sent by web pages, only allowed origins."""
    from fastapi.responses import JSONResponse

    async def guard(request: Request, forward: Callable[[Request], Awaitable[Any]]) -> Any:
        asked = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        origin = request.headers.get("origin")
        if host in LOOPBACK and asked not in LOOPBACK:
            return JSONResponse({"detail": "this server only answers to its own address"}, 421)
        if origin and origin not in origins and urlsplit(origin).netloc != request.headers.get("host"):
            sentence = f"pages of {origin} may not use this server; start it with --allow-origin {origin}"
            return JSONResponse({"detail": sentence}, 403)
        given = _given_token(request.headers.get("authorization", ""))
        log_in = request.url.path.rstrip("/") in ("/auth", "/auth/token")
        if token and not log_in and not secrets.compare_digest(given.encode(), token.encode()):
            # OHIF sends no token of its own, so the browser is told to ask for it.
            in_browser = request.url.path.startswith(("/ohif/", "/proxy/"))
            challenge = {"WWW-Authenticate": 'Basic realm="medvit"'} if in_browser else None
            return JSONResponse({"detail": "log in first: the token is the password"}, 401, challenge)
        return await forward(request)

    return guard


def _given_token(authorization: str) -> str:
    """The token in a header: a bearer token (RFC 6750), or the password of RFC 7617's basic scheme."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "basic":
        return given
    try:
        return base64.b64decode(given).decode().partition(":")[2]
    except ValueError:
        return ""


def _stop_tasks() -> None:
    """End the background tasks, so that no process outlives the server."""
    from monailabel.utils.async_tasks.utils import background_executors, processes, stop_background_task

    for executor in background_executors.values():
        executor.shutdown(wait=False, cancel_futures=True)
    for method in ("train", "scoring", "batch_infer"):
        while processes(method):
            stop_background_task(method)


def _found_from_anywhere(model: str) -> str:
    """A folder as an absolute path, a name as it is."""
    return str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m medvit.label.server")
    parser.add_argument("studies")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--models", action="append", default=[])
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--amp", default="off")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--query", action="append", default=[])
    parser.add_argument("--allow-origin", action="append", default=[])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--parent", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.host not in LOOPBACK and not os.environ.get("MEDVIT_LABEL_TOKEN"):
        parser.error("a server that others can reach needs a token")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
