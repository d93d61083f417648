"""OHIF in the browser: its pages and the archive's answers, served from one origin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from monailabel import endpoints
from monailabel.interfaces.utils.app import app_instance

from medvit.label.errors import RequestError
from medvit.label.stores import PacsStore

_PAGES = Path(endpoints.__file__).parent / "static" / "ohif"
# Prefix that OHIF puts before its queries and retrievals; the archive has one root for all.
_PREFIXES = ("qido", "wado", "stow")

viewer_router = APIRouter(include_in_schema=False)


async def _content(request: Request) -> bytes:
    return await request.body()


@viewer_router.get("/ohif/{path:path}")
def page(path: str) -> FileResponse:
    """A file of OHIF; addresses within the viewer, such as that of a study, all lead to its start page."""
    file = (_PAGES / path).resolve()
    inside = file.is_relative_to(_PAGES.resolve()) and file.is_file()
    return FileResponse(file if inside else _PAGES / "index.html")


# Not `async`, so that it runs in a thread of its own and the server can answer others meanwhile.
@viewer_router.api_route("/proxy/dicom/{path:path}", methods=["GET", "POST"])
def archive(request: Request, path: str, content: Annotated[bytes, Depends(_content)]) -> Response:
    """What the archive answers to a DICOMweb request, with its query; addresses in it lead back here.

    Raises
    ------
    RequestError
        If the images do not come from an archive.
    """
    store: Any = app_instance().datastore()
    if not isinstance(store, PacsStore):
        raise RequestError(
            "OHIF needs an archive; start the server with the address of a DICOMweb service", 404
        )
    first, _, rest = path.partition("/")
    path = rest if first in _PREFIXES else path
    if ".." in path.split("/"):
        raise RequestError(f"{path!r} is not an address of the archive", 404)
    kept = {k: v for k, v in request.headers.items() if k in ("accept", "content-type")}
    target = f"{store.url}/{path}" + (f"?{request.url.query}" if request.url.query else "")
    answer = store.session.request(
        request.method, target, data=content or None, headers=kept, timeout=store.access.timeout
    )
    kind, body = answer.headers.get("Content-Type", "application/octet-stream"), answer.content
    if "json" in kind:
        body = body.replace(store.url.encode(), f"{request.base_url}proxy/dicom".encode())
    return Response(body, answer.status_code, headers={"Content-Type": kind})
