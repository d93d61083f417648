"""The done mark of a study: digests of its results and of everything that they were made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from medvit.errors import DISK_FULL, MedvitError, StudyError
from medvit.studies import Study, safe_join, sha256_of, write_json
from medvit.studies.done_mark import DONE, read_mark
from medvit.studies.files import sync
from medvit.studies.formats import read_header
from medvit.studies.study import Series

_Stamp = tuple[int, int, int]
Known = dict[Path, tuple[_Stamp, str]]

_CHANGED = {
    "weights_sha256": "the weights changed",
    "medvit": "it was made by another version of medvit",
}


def input_sha256(study: Study) -> list[str]:
    """SHA-256 of the file of each series of `study`; for several files, of their sorted digests.

    Raises
    ------
    OSError, StudyError
        If a file cannot be read.
    """
    return [_digest([_digests.of(path) for path in _files_of(series)]) for series in study.series]


class _Digests:
    """Digests of files of input, by their size and times.

    A study that is done again is looked at twice: in the plan, and when its turn comes, perhaps in a worker.
    """

    def __init__(self, most: int = 1 << 16) -> None:
        self._known: OrderedDict[Path, tuple[_Stamp, str]] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def of(self, path: Path) -> str:
        """The digest of a file, which is read unless it is known."""
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = sha256_of(path)
        self.learn({path: (stamp, digest)})
        return digest

    def __bool__(self) -> bool:
        return bool(self._known)

    def known(self, paths: Sequence[Path]) -> Known:
        """The known digests of these files."""
        return {path: known for path in paths if (known := self._known.get(path)) is not None}

    def learn(self, known: Known) -> None:
        """Adopt the digests that another process knows."""
        with self._lock:
            self._known.update(known)
            while len(self._known) > self._most:
                self._known.popitem(last=False)


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


_digests = _Digests()


def known_digests(study: Study) -> Known:
    """The digests of the study's files that this process knows, for `learn_digests` in another one."""
    if not _digests:
        return {}
    return _digests.known([path for series in study.series for path in _files_of(series)])


def learn_digests(known: Known) -> None:
    """Adopt digests of files; they are valid only while the files keep their size and times."""
    _digests.learn(known)


def input_stamps(study: Study) -> list[list[Any]]:
    """Path, size and time of change of each file of `study`: cheap to compare, without reading any.

    Raises
    ------
    OSError, StudyError
        If a file cannot be found.
    """
    files = [path for series in study.series for path in _files_of(series)]
    return [[str(path), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in files]


def seal(folder: Path, made_from: Mapping[str, Any], missing: Mapping[str, str] | None = None) -> None:
    """Sync all files of `folder` to disk, then write its done mark.

    Parameters
    ----------
    made_from
        Input, weights and settings, for JSON; the results count as done only for the same ones.
    missing
        Reason why each requested output is missing, by its name.
    """
    outputs = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        outputs[path.relative_to(folder).as_posix()] = sha256_of(path)
    for subfolder in (p for p in folder.rglob("*") if p.is_dir()):
        sync(subfolder)
    mark = {"made_from": made_from, "outputs": outputs}
    write_json(folder / DONE, mark | ({"missing": dict(missing)} if missing else {}))


def lies_in_results(path: Path) -> bool:
    """Whether a file or folder lies beside or below a done mark: a result, and not an input."""
    return any(_is_result(parent) for parent in path.absolute().parents)


@cache
def _is_result(folder: Path) -> bool:
    # Another program may write a file of this name.
    return (folder / DONE).is_file() and read_mark(folder) is not None


def why_not_done(folder: Path, made_by: Mapping[str, Any], inputs: Callable[[], list[str]]) -> str:
    """Why a study has to be processed, in a clause; empty if its results are complete and valid.

    Parameters
    ----------
    folder
        Folder of the study's results.
    made_by
        Requested weights and settings.
    inputs
        Function that returns the digests of the study's input, called only if all else fits.
    """
    if not folder.exists():
        return "it is missing"
    mark = read_mark(folder)
    if mark is None:
        return "it was not finished"
    if mark.get("void"):
        return "it is to be done again"
    wanted, made_from = json.loads(json.dumps(made_by)), dict(mark["made_from"])
    made_from_inputs = made_from.pop("inputs", None)
    differing = [key for key in wanted | made_from if wanted.get(key) != made_from.get(key)]
    if differing:
        return _CHANGED.get(differing[0], "the bundle or its settings changed")
    for name, digest in mark["outputs"].items():
        file = safe_join(folder, name)
        if not file.is_file() or sha256_of(file) != digest:
            return f"{name} is damaged or missing"
    return "" if inputs() == made_from_inputs else "its input changed"


@contextmanager
def study_folder(
    output_dir: Path, study_id: str, made_from: Mapping[str, Any], missing: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """A folder to fill that becomes ``output_dir/study_id``, with its done mark, once the block ends well.

    Whatever stood there before is replaced as a whole; when the block fails it stays as it was. The block may
    add to `missing` until it ends.

    Raises
    ------
    StudyError
        If the disk is full.
    """
    final = safe_join(output_dir, study_id)
    partial, earlier = _beside(output_dir, study_id)
    clear_leftovers(output_dir, study_id)
    try:
        partial.mkdir(parents=True)
        yield partial
        seal(partial, made_from, missing)
        if final.exists():
            final.rename(earlier)
        partial.rename(final)
        sync(final.parent)
    except BaseException as error:
        if earlier.exists() and not final.exists():
            earlier.rename(final)
        if (reason := disk_full(error)) is not None:
            what = f"cannot be written: {reason}"
            raise StudyError("disk-full", what, path=final, do="free space, then resume") from None
        raise
    finally:
        clear_leftovers(output_dir, study_id)


def clear_leftovers(output_dir: Path, study_id: str) -> None:
    """Remove unfinished results of a study that a killed process left."""
    for path in _beside(output_dir, study_id):
        shutil.rmtree(path, ignore_errors=True)


def _beside(output_dir: Path, study_id: str) -> tuple[Path, Path]:
    name = study_id.replace("/", "_")
    return safe_join(output_dir, f".partial-{name}"), safe_join(output_dir, f".earlier-{name}")


def _files_of(series: Series) -> Sequence[Path]:
    # A header may be separate from its voxels; the reader refuses a broken one.
    if series.format == "dicom":
        return series.paths
    try:
        return sorted(read_header(series).files)
    except StudyError:
        return series.paths


def _digest(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def disk_full(error: BaseException) -> str | None:
    """The system's message for a full disk, also if another error was raised from it; else `None`."""
    cause = error.__cause__ if isinstance(error, MedvitError) else error
    return cause.strerror if isinstance(cause, OSError) and cause.errno in DISK_FULL else None
