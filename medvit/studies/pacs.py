"""Fetch series from a PACS and store results in it, over DICOMweb (PS3.18)."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError

from medvit.errors import MissingExtraError, StudyError
from medvit.studies.access import Access, PacsError
from medvit.studies.formats import format_of

if TYPE_CHECKING:
    import requests
    from dicomweb_client.api import DICOMwebClient


def pull(url: str, query: Mapping[str, str], folder: Path, access: Access | None = None) -> list[Path]:
    """Fetch every series that matches a query, as stored (no transcoding).

    Parameters
    ----------
    url
        Address of the DICOMweb service, such as ``"https://pacs:8042/dicom-web"``.
    query
        DICOM keyword to value, of study or series level ({"PatientID": "17", "Modality": "CT"}); ``*`` and
        date ranges as in PS3.18 8.3.4.
    folder
        Each series becomes a folder in it, complete or not at all, named by a hash of its UID; an existing
        one is replaced.
    access
        Credentials and certificates.

    Returns
    -------
    list of Path
        The folders, one for each series.

    Raises
    ------
    PacsError
        If nothing matches, the service cannot be used, or it sent fewer instances than it announced.
    """
    check_query(query)
    client = dicomweb_client(url, access or Access())
    found = _search(client, url, query)
    if not found:
        raise PacsError(f"{url} has no series that matches {', '.join(query)}; check the values")
    return [_fetch(client, url, series, folder) for series in found]


def push(url: str, files: Iterable[Path], access: Access | None = None) -> int:
    """Store DICOM files; return their number.

    Raises
    ------
    PacsError
        If the service cannot be used, or refused a file; the other files are stored nevertheless.
    StudyError
        If a file is not DICOM; then nothing is sent.
    """

    def send(files: Sequence[Path]) -> Iterator[str]:
        for file in files:
            read_instance(file, stop_before_pixels=True)
        client = dicomweb_client(url, access or Access())
        yield from (_store(client, url, file) for file in files)

    return store_all(url, files, send)


def store_all(archive: object, files: Iterable[Path], send: Callable[[Sequence[Path]], Iterable[str]]) -> int:
    """Store files by a function that returns why a file was refused, or nothing; return their number.

    Raises
    ------
    PacsError
        If there are none, or one was refused.
    """
    files = list(files)
    if not files:
        raise PacsError("there is no file to store; pass DICOM files")
    refused = [why for why in send(files) if why]
    if refused:
        raise PacsError(f"{archive} refused {len(refused)} of {len(files)} files; first {refused[0]}")
    return len(files)


def check_query(query: Mapping[str, str]) -> None:
    """Raise `PacsError` if a query is empty or has a name that is not a DICOM keyword."""
    if not any(query.values()):
        raise PacsError(
            "an empty query would fetch the whole archive; state a PatientID, StudyInstanceUID, ..."
        )
    unknown = [keyword for keyword in query if tag_for_keyword(keyword) is None]
    if unknown:
        raise PacsError(
            f"{', '.join(unknown)} is not a DICOM keyword; write it as in 'PatientID' or 'StudyDate'"
        )


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The given files, and all DICOM files below the given folders, whatever their names."""
    files: list[Path] = []
    for path in paths:
        below = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        files += [path] if path.is_file() else [p for p in below if format_of(p) == "dicom"]
    return files


def dicomweb_client(url: str, access: Access) -> DICOMwebClient:
    """A client of a DICOMweb service that authenticates with `access` and does not retry.

    Raises
    ------
    PacsError, MissingExtraError
        If the settings contradict each other or would expose a secret; or the extra is not installed.
    """
    try:
        from dicomweb_client.api import DICOMwebClient
    except ImportError as error:
        raise MissingExtraError("a PACS", "pacs") from error
    client = DICOMwebClient(url.rstrip("/"), session=http_session(url, access), timeout=access.timeout)
    # Its retries take half a minute to report that nobody listens, and log a stack trace even for one
    # attempt.
    client.set_http_retry_params(retry=False)
    logging.getLogger("retrying").setLevel(logging.CRITICAL)
    return client


def http_session(url: str, access: Access) -> requests.Session:
    """A session for requests to a DICOMweb service, which authenticates with `access`.

    Raises
    ------
    PacsError
        If the settings contradict each other or would expose a secret.
    """
    import requests

    access.check(url)
    session = requests.Session()
    # REQUESTS_CA_BUNDLE would silently replace the requested CA file.
    session.trust_env = access.ca_file is None
    if access.token:
        session.auth = _Bearer(access.token)
    elif access.user:
        session.auth = (access.user, access.password)
    if access.ca_file:
        session.verify = str(access.ca_file)
    if access.certificate:
        certificate = str(access.certificate)
        session.cert = (certificate, str(access.key)) if access.key else certificate
    return session


class _Bearer:
    """An authentication, not a header, because requests lets a ~/.netrc override the header."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


@contextmanager
def _clear_errors(url: str) -> Iterator[None]:
    """Turn errors of the network stack into one sentence.

    The cause is not chained, because its text contains the address with the query, and so a patient's
    identifier.
    """
    import requests

    host = urlsplit(url).netloc
    try:
        yield
    except requests.exceptions.SSLError:
        what = (
            "TLS failed: give the CA file that signed its certificate, and the client certificate if it asks"
        )
        raise PacsError(f"{host}: {what}") from None
    except requests.exceptions.Timeout:
        raise PacsError(f"{host} did not answer in time; try again, or allow more time") from None
    except requests.exceptions.HTTPError as error:
        raise PacsError(f"{host} {_status(_code(error))}") from None
    except requests.exceptions.ConnectionError:
        raise PacsError(f"{host} cannot be reached; check the address, and that the PACS runs") from None
    except (ValueError, KeyError, AttributeError):
        raise PacsError(f"{host} answers, but not as a DICOMweb service; check the path in {url}") from None


def _code(error: Any) -> int:
    return 0 if error.response is None else int(error.response.status_code)


def _status(code: int) -> str:
    if code in (401, 403):
        return f"denies access ({code}); check user, password or token"
    if code == 404:
        return "has no DICOMweb service at this path (404); check the path"
    return f"answered with HTTP status {code}; ask its administrator"


def _search(client: DICOMwebClient, url: str, query: Mapping[str, str]) -> list[pydicom.Dataset]:
    """All series that match, page by page, until none is new, also from servers that ignore the offset."""
    filters = {k: v for k, v in query.items() if k != "StudyInstanceUID"}
    found: dict[str, pydicom.Dataset] = {}
    while True:
        with _clear_errors(url):
            page = client.search_for_series(
                query.get("StudyInstanceUID"), search_filters=filters, offset=len(found) or None
            )
            series = {s.SeriesInstanceUID: s for s in map(pydicom.Dataset.from_json, page)}
        if series.keys() <= found.keys():
            return list(found.values())
        found |= series


def _fetch(client: DICOMwebClient, url: str, series: pydicom.Dataset, folder: Path) -> Path:
    from medvit.studies.dicom_out.common import save_dicom  # slow to import

    target = folder / digest_of(series.SeriesInstanceUID)
    partial = folder / f".{target.name}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _clear_errors(url):
            instances = client.iter_series(
                series.StudyInstanceUID, series.SeriesInstanceUID, media_types=(("application/dicom", "*"),)
            )
            for instance in instances:
                save_dicom(instance, partial / f"{digest_of(instance.SOPInstanceUID)}.dcm")
        came, promised = len(list(partial.iterdir())), series.get("NumberOfSeriesRelatedInstances")
        if came == 0 or (promised is not None and came < int(promised)):
            what = f"{came} of {promised or 'its'} instances of series {series.SeriesInstanceUID}"
            raise PacsError(f"{url} sent {what}; try again")
        shutil.rmtree(target, ignore_errors=True)
        return partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _store(client: DICOMwebClient, url: str, file: Path) -> str:
    """Store one file; return why it was refused, or nothing."""
    import requests

    sent = read_instance(file)
    with _clear_errors(url):
        try:
            answer: Any = client.store_instances([sent])
        except requests.exceptions.HTTPError as error:
            # 409: none of the instances sent was stored, PS3.18 10.5.3.
            if _code(error) != 409:
                raise
            return f"{file}: refused (409)"
    # Some servers send the sequence even where it has no item.
    failed = answer.get("FailedSOPSequence")
    if failed:
        return f"{file}: failure reason {int(failed[0].get('FailureReason') or 0):#06x}"
    # Only instances named as stored count (PS3.18 10.5.3); some servers answer 200 without storing anything.
    stored = {str(item.get("ReferencedSOPInstanceUID")) for item in answer.get("ReferencedSOPSequence") or ()}
    return "" if str(sent.SOPInstanceUID) in stored else f"{file}: the answer does not name it as stored"


def read_instance(file: Path, **options: bool) -> pydicom.Dataset:
    """A DICOM file, read with pydicom's options.

    Raises
    ------
    StudyError
        If it is not DICOM.
    """
    try:
        return pydicom.dcmread(file, **options)  # type: ignore[arg-type]
    except (InvalidDicomError, OSError) as error:
        raise StudyError("dicom-unreadable", "is not a DICOM file", path=file, do="leave it out") from error


def digest_of(uid: str) -> str:
    """A name of a file or folder instead of a UID, which could identify a patient."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]
