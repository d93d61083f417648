"""The DICOM series below a folder of images, each identified by the folder that holds it alone."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from medvit.errors import MedvitError
from medvit.studies import Study, find_studies

_log = logging.getLogger(__name__)
#: The folder in which a store keeps its labels.
LABELS = "labels"


class SeriesFolders:
    """Finds the series, and looks again only when a folder has changed.

    Parameters
    ----------
    root
        The folder whose subfolders are searched to the bottom; ``labels`` and hidden ones are left out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen: dict[str, int] | None = None
        self._found: dict[str, Path] = {}

    def changed(self) -> bool:
        """Whether a folder was added, removed or written to since the last look."""
        return self._folders() != self._seen

    def found(self) -> dict[str, Path]:
        """Folder of each series by its identifier, which is the path of the folder below the root."""
        folders = self._folders()
        if folders != self._seen:
            self._seen, self._found = folders, self._search()
        return self._found

    def _folders(self) -> dict[str, int]:
        seen = {}
        for top in self._tops():
            for folder, _, _ in os.walk(top):
                seen[folder] = Path(folder).stat().st_mtime_ns
        return seen

    def _tops(self) -> list[Path]:
        folders = (p for p in self.root.iterdir() if p.is_dir())
        return sorted(p for p in folders if p.name != LABELS and not p.name.startswith("."))

    def _search(self) -> dict[str, Path]:
        studies: list[Study] = []
        for top in self._tops():
            try:
                studies += find_studies(top).studies
            except MedvitError as error:
                _log.warning("%s", error)
        series = [study.series[0] for study in studies if study.series[0].format == "dicom"]
        parents = [{path.parent for path in one.paths} for one in series]
        shared = Counter(parent for of_one in parents for parent in of_one)
        found = {}
        for of_one in parents:
            folder = min(of_one)
            if len(of_one) > 1 or shared[folder] > 1:
                _log.warning(
                    "%s: holds several DICOM series, or only a part of one; give each a folder", folder
                )
                continue
            found["_".join(folder.relative_to(self.root).parts)] = folder
        return found
