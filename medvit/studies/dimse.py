"""Fetch series from a PACS and store results in it, over DIMSE (PS3.7): echo, find, get, move and store."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medvit.errors import StudyError
from medvit.studies.access import PacsError
from medvit.studies.association import OUR_TITLE, SUCCESS, Contexts, Node, associated, check_status
from medvit.studies.pacs import check_query, digest_of, read_instance, store_all

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_PENDING = (0xFF00, 0xFF01)
# The archive warns of a coerced or reduced data set, but has stored it (PS3.4 B.2.3).
_STORED = (0x0000, 0xB000, 0xB006, 0xB007)
_CONTEXTS = 128  # in one association, PS3.8 9.3.2.2
_STUDY_KEYS = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "AccessionNumber", "StudyID", "StudyDescription", "ModalitiesInStudy",
)  # fmt: skip
_SERIES_KEYS = ("Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined")
# As series are stored; the first that both sides accept is used.
_SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1,
    RLELossless, DeflatedExplicitVRLittleEndian,
]  # fmt: skip
# The classes that a C-GET may return: readable images, and results.
_FETCHED = (
    *("CTImageStorage", "EnhancedCTImageStorage", "LegacyConvertedEnhancedCTImageStorage"),
    *("MRImageStorage", "EnhancedMRImageStorage", "LegacyConvertedEnhancedMRImageStorage"),
    *("PositronEmissionTomographyImageStorage", "EnhancedPETImageStorage", "NuclearMedicineImageStorage"),
    *("ComputedRadiographyImageStorage", "DigitalXRayImageStorageForPresentation"),
    *("SecondaryCaptureImageStorage", "ParametricMapStorage", "SegmentationStorage"),
    *("LabelMapSegmentationStorage", "RTStructureSetStorage", "EncapsulatedPDFStorage"),
    *("ComprehensiveSRStorage", "EnhancedSRStorage", "BasicTextSRStorage", "Comprehensive3DSRStorage"),
)


def echo(node: Node, *, title: str = OUR_TITLE) -> None:
    """Ask a node whether it is running and accepts our calls (C-ECHO).

    Parameters
    ----------
    node
        The node to call.
    title
        Our own AE title.

    Raises
    ------
    PacsError
        If it cannot be reached, or refuses.
    """
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    with associated(node, title, [(Verification, None)]) as association:
        check_status(association.send_c_echo(), node, "the echo")


def find(node: Node, query: Mapping[str, str], *, title: str = OUR_TITLE) -> list[Dataset]:
    """The series of a node that match a query (C-FIND, study root), each with the keys of its study.

    Parameters
    ----------
    node, title
        Same as in `echo`.
    query
        DICOM keyword to value, of study or series level; ``*`` and date ranges as in PS3.4 C.2.2.2.

    Raises
    ------
    PacsError
        If the query is empty or unknown, or the node cannot be used.
    """
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

    check_query(query)
    model = StudyRootQueryRetrieveInformationModelFind
    of_series = {k: v for k, v in query.items() if k not in _STUDY_KEYS}
    of_study = {k: v for k, v in query.items() if k in _STUDY_KEYS}
    found = []
    with associated(node, title, [(model, None)]) as association:
        for study in _matches(association, node, model, _identifier("STUDY", _STUDY_KEYS, of_study)):
            uid = {"StudyInstanceUID": str(study.StudyInstanceUID)}
            keys = _identifier("SERIES", (*_SERIES_KEYS, *uid, *of_series), {**of_series, **uid})
            for series in _matches(association, node, model, keys):
                series.StudyInstanceUID = study.StudyInstanceUID
                for keyword in _STUDY_KEYS:
                    if keyword in study:
                        series[keyword] = study[keyword]
                found.append(series)
    return found


def get(node: Node, query: Mapping[str, str], folder: Path, *, title: str = OUR_TITLE) -> list[Path]:
    """Fetch every series that matches a query over the association that asks for it (C-GET).

    Parameters
    ----------
    node, query, title
        Same as in `find`.
    folder
        Folder in which each series becomes a folder, as in `medvit.studies.pacs.pull`.

    Returns
    -------
    list of Path
        The folders, one for each series.

    Raises
    ------
    PacsError
        If nothing matches, the node cannot be used, or not all instances came.
    """
    from pynetdicom import build_role
    from pynetdicom import sop_class as classes

    model = classes.StudyRootQueryRetrieveInformationModelGet  # type: ignore[attr-defined]
    series = _found(node, query, title)
    kinds = [getattr(classes, name) for name in _FETCHED if hasattr(classes, name)]
    contexts = [(model, None), *((kind, _SYNTAXES) for kind in kinds)]
    roles = [build_role(kind, scp_role=True) for kind in kinds]
    inbox = _Inbox()
    with associated(node, title, contexts, roles=roles, stored=inbox.take) as association:
        return [_fetched(association, node, model, one, folder, inbox) for one in series]


def move(node: Node, query: Mapping[str, str], destination: str, *, title: str = OUR_TITLE) -> int:
    """Make a node send every series that matches a query to another node, which it knows by title (C-MOVE).

    Parameters
    ----------
    node, query, title
        Same as in `find`.
    destination
        AE title of the receiver, such as that of our listener.

    Returns
    -------
    int
        Number of instances that were sent.

    Raises
    ------
    PacsError
        If nothing matches, the node cannot be used, or not all instances were sent.
    """
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove  # type: ignore[attr-defined]

    model = StudyRootQueryRetrieveInformationModelMove
    series = _found(node, query, title)
    sent = 0
    with associated(node, title, [(model, None)]) as association:
        for one in series:
            answers = association.send_c_move(_of_series(one), destination, model)
            sent += _completed(answers, node, f"the move to {destination}")
    return sent


def store(node: Node, files: Iterable[Path], *, title: str = OUR_TITLE) -> int:
    """Store DICOM files at a node (C-STORE), as they are encoded; return their number.

    Parameters
    ----------
    node, title
        Same as in `echo`.
    files
        DICOM files.

    Raises
    ------
    PacsError
        If the node cannot be used, or refused a file; the other files are stored nevertheless.
    StudyError
        If a file is not DICOM; then nothing is sent.
    """

    def send(files: Sequence[Path]) -> Iterator[str]:
        for batch, contexts in _batches(files):
            with associated(node, title, contexts) as association:
                yield from [_sent(association, file) for file in batch]

    return store_all(node, files, send)


def _identifier(level: str, keywords: Iterable[str], values: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword in keywords:
        setattr(identifier, keyword, values.get(keyword, ""))
    return identifier


def _matches(association: Association, node: Node, model: Any, identifier: Dataset) -> list[Dataset]:
    matches = []
    for status, match in association.send_c_find(identifier, model):
        if status.get("Status") in _PENDING and match is not None:
            matches.append(match)
        else:
            check_status(status, node, "the query")
    return matches


def _found(node: Node, query: Mapping[str, str], title: str) -> list[Dataset]:
    series = find(node, query, title=title)
    if not series:
        raise PacsError(f"{node} has no series that matches {', '.join(query)}; check the values")
    return series


def _of_series(series: Dataset) -> Dataset:
    uids = {k: str(series[k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID")}
    return _identifier("SERIES", uids, uids)


class _Inbox:
    """Destination of the instances of the series being fetched."""

    folder = Path()

    def take(self, event: Event) -> int:
        """Write an instance; its status."""
        request: Any = event.request
        name = digest_of(str(request.AffectedSOPInstanceUID))
        (self.folder / f"{name}.dcm").write_bytes(event.encoded_dataset())
        return SUCCESS


def _fetched(
    association: Association, node: Node, model: Any, series: Dataset, folder: Path, inbox: _Inbox
) -> Path:
    target = folder / digest_of(str(series.SeriesInstanceUID))
    partial = inbox.folder = folder / f".{target.name}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        promised = _completed(association.send_c_get(_of_series(series), model), node, "the fetch")
        came = len(list(partial.iterdir()))
        if came == 0 or came < promised:
            raise PacsError(f"{node} sent {came} of {promised} instances of a series; try again")
        shutil.rmtree(target, ignore_errors=True)
        return partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _completed(answers: Iterable[tuple[Dataset, Dataset | None]], node: Node, what: str) -> int:
    """The number of instances transferred according to the last answer, which must report success."""
    status = Dataset()
    for status, _ in answers:
        if status.get("Status") not in _PENDING:
            break
    failed = int(status.get("NumberOfFailedSuboperations") or 0)
    if failed:
        raise PacsError(f"{node} could not complete {what}: {failed} instances failed; try again")
    check_status(status, node, what)
    return int(status.get("NumberOfCompletedSuboperations") or 0)


def _batches(files: Sequence[Path]) -> Iterator[tuple[list[Path], Contexts]]:
    """Files in groups for one association each, in which every class with every syntax needs a context."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        header = read_instance(file, stop_before_pixels=True)
        try:
            kind = str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)
        except AttributeError:
            what = "states no class or transfer syntax"
            raise StudyError("dicom-unreadable", what, path=file, do="leave it out") from None
        kinds.setdefault(kind, []).append(file)
    every = list(kinds)
    for first in range(0, len(every), _CONTEXTS):
        some = every[first : first + _CONTEXTS]
        yield [file for kind in some for file in kinds[kind]], [(kind, [syntax]) for kind, syntax in some]


def _sent(association: Association, file: Path) -> str:
    """Send one file; return why it was not stored, or nothing."""
    try:
        status = association.send_c_store(file)
    except (ValueError, RuntimeError, AttributeError) as error:
        # No context was accepted, or the association ended.
        return f"{file}: {'the kind of object is not taken' if isinstance(error, ValueError) else 'not sent'}"
    code = status.get("Status")
    if code in _STORED:
        return ""
    return f"{file}: {'no answer' if code is None else f'status {code:#06x}'}"
