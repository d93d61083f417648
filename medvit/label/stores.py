"""The stores of images and labels: a folder of files, or an archive that speaks DICOMweb."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import LocalDatastore
from pydicom import Dataset

from medvit.label.dicom_seg import is_by_hand, read_segmentation, write_segmentation
from medvit.label.errors import RequestError, file_name, not_found
from medvit.label.series import SeriesFolders
from medvit.label.tables import named_table
from medvit.label.volumes import read_label_map
from medvit.studies import (
    LabelTable,
    LoadedStudy,
    only_study,
    read_study,
    safe_join,
    write_image,
    write_label_map,
)
from medvit.studies.access import Access
from medvit.studies.dicom_out import Algorithm
from medvit.studies.pacs import dicomweb_client, http_session, pull, push

FINAL = "final"
PATTERNS = ("*.nii.gz", "*.nii", "*.nrrd", "*.mha")
# Stands for the suffix of an image that is a folder.
_SERIES = ".dicom-series"
# Long enough for a viewer that sends several requests in a row, short enough to notice new series.
_SECONDS = 20.0
# Series in one request, and the pause after a listing as a multiple of the time that it took.
_PAGE, _REST = 500, 20.0


class FileStore(LocalDatastore):
    """A folder of images and of DICOM series in subfolders, with labels in ``labels/``.

    Parameters
    ----------
    folder
        Folder of the images; ``labels/`` and ``datastore_v2.json`` are made in it.
    watch
        Whether to notice files that others add.
    """

    def __init__(self, folder: Path, *, watch: bool = True) -> None:
        self._series = SeriesFolders(folder)
        # Series as files that clients can download.
        self._converted: tempfile.TemporaryDirectory | None = None
        super().__init__(str(folder), extensions=PATTERNS, auto_reload=watch)

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image that clients can download: a series becomes a NIfTI file."""
        path = self.study_path(image_id)
        if not path.is_dir():
            return str(path)
        self._converted = self._converted or tempfile.TemporaryDirectory(prefix="medvit-label-")
        file = safe_join(Path(self._converted.name), f"{image_id}.nii.gz")
        if not file.is_file() or file.stat().st_mtime_ns < path.stat().st_mtime_ns:
            study = read_study(only_study(path))
            write_image(file, study.image[0].numpy(), study)
        return str(file)

    def close(self) -> None:
        """Remove the files that were made for clients to download."""
        if self._converted is not None:
            self._converted.cleanup()

    def study_path(self, image_id: str) -> Path:
        """Path of an image for inference: a file, or the folder of a DICOM series."""
        uri = super().get_image_uri(image_id)
        if not uri:
            raise not_found("image", image_id, sorted(self.list_images()))
        return Path(uri)

    def status(self) -> dict[str, Any]:
        """How many images and labels there are, after a look for new DICOM folders."""
        if self._series.changed():
            self.refresh()
        return super().status()

    def remove_image(self, image_id: str) -> None:
        """Delete an image file and its labels; folders of DICOM series stay.

        Raises
        ------
        RequestError
            If the image is a folder of DICOM files.
        """
        if self.study_path(image_id).is_dir():
            raise RequestError(f"{image_id} is a folder of DICOM files, which this server does not delete")
        super().remove_image(image_id)

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        """Files by name, whatever the case of their suffix, and the series among the images."""
        suffixes = tuple(pattern.lstrip("*") for pattern in patterns)
        names = sorted(file.name for file in Path(path).iterdir())
        files = [name for name in names if name.lower().endswith(suffixes)]
        if Path(path).resolve() == self._series.root.resolve():
            taken = {self._to_id(name)[0] for name in files}
            files += [f"{image}{_SERIES}" for image in self._series.found() if image not in taken]
        return dict(zip(files, files, strict=True))

    def _to_id(self, file: str) -> tuple[str, str]:
        suffixes = (*(pattern.lstrip("*") for pattern in PATTERNS), _SERIES)
        length = next((len(s) for s in suffixes if file.lower().endswith(s)), len(Path(file).suffix))
        return file[: len(file) - length], file[len(file) - length :]

    def _filename(self, id: str, ext: str) -> str:
        # Joining a folder and an absolute path gives the latter, so that a series is found where it lies.
        series = self._series.found() if ext == _SERIES else {}
        return str(series[id]) if id in series else f"{id}{ext}"

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image, under a name that cannot lead out of the folder.

        Raises
        ------
        RequestError
            If it has another name, or is not of a format that is served.
        """
        suffixes = tuple(pattern.lstrip("*") for pattern in PATTERNS)
        if not image_filename.lower().endswith(suffixes):
            raise RequestError(f"images are accepted as {', '.join(suffixes)}, and the file name must end so")
        return super().add_image(file_name(image_id), image_filename, image_info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Add a label map of an image.

        Raises
        ------
        MedvitError
            If it is not a label map, or has values beyond the names sent with it.
        """
        self.get_image_uri(image_id)
        if label_tag == FINAL:
            self._check(image_id, label_filename, label_info)
        return super().save_label(file_name(image_id), label_filename, file_name(label_tag), label_info)

    def _check(self, image_id: str, label_filename: str, label_info: dict[str, Any]) -> np.ndarray:
        study = read_study(only_study(self.study_path(image_id)))
        labels = read_label_map(label_filename, study.grid)
        names = label_names(label_info)
        if names is not None and labels.max(initial=0) > len(names):
            raise RequestError(
                f"the label map holds {labels.max()}, but only {len(names)} names came with it"
            )
        return labels

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Files of the image and the label of each annotated study, as clients take them."""
        return [
            {"image": self.get_image_uri(pair["id"]), "label": pair["label"]} for pair in self.annotated()
        ]

    def annotated(self) -> list[dict[str, Any]]:
        """Image and label of each annotated study, and the names of its values where they are known."""
        return [
            {
                "id": image,
                "image": str(self.study_path(image)),
                "label": self.get_label_uri(image, FINAL),
                "names": label_names(self.get_label_info(image, FINAL)),
            }
            for image in sorted(self.get_labeled_images())
        ]


class PacsStore(FileStore):
    """An archive that speaks DICOMweb; images are its series, labels become DICOM SEG in it.

    Parameters
    ----------
    url
        Address of the DICOMweb service.
    cache
        Folder for what was fetched.
    modalities
        Modalities of the series to list, such as ``("CT", "MR")``.
    tables
        Label tables by name of the bundle; they code the labels that are saved.
    access
        Credentials and certificates.
    query
        Series to list, DICOM keyword to value, as for `pull`; all of the modalities by default.
    """

    def __init__(
        self,
        url: str,
        cache: Path,
        modalities: tuple[str, ...],
        tables: dict[str, LabelTable],
        access: Access | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.modalities = modalities
        self.tables = tables
        self.access = access or Access()
        self.query = dict(query or {})
        self._cache = cache
        self._client = dicomweb_client(url, self.access)
        self.session = http_session(url, self.access)
        self._listed: tuple[float, list[str], dict[str, str]] = (0.0, [], {})
        # A stored segmentation never changes, so each is read once.
        self._saved_for: dict[str, tuple[str, ...]] = {}
        super().__init__(cache / "images", watch=False)

    def name(self) -> str:
        """Address of the archive."""
        return self.url

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of the images in the archive."""
        return self._listing()[0]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The images of which the archive holds a DICOM SEG that a person saved."""
        images, segmentations = self._listing()
        return [uid for uid in images if uid in segmentations]

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """The other images."""
        images, segmentations = self._listing()
        return [uid for uid in images if uid not in segmentations]

    def status(self) -> dict[str, Any]:
        """How many series and labels the archive holds."""
        images, segmentations = self._listing()
        completed = sum(uid in segmentations for uid in images)
        return {"total": len(images), "completed": completed, "label_tags": {FINAL: completed}}

    def json(self) -> dict[str, Any]:
        """All series of the archive and which of them have a label, and what is known of those fetched."""
        images, segmentations = self._listing()
        stated = super().json()
        known = stated["objects"]
        objects = {}
        for uid in images:
            entry = known.get(uid, {"image": {"ext": ".nii.gz", "info": {}}, "labels": {}})
            labels = {tag: label for tag, label in entry["labels"].items() if tag != FINAL}
            if uid in segmentations:
                labels[FINAL] = entry["labels"].get(FINAL, {"ext": ".nii.gz", "info": {}})
            objects[uid] = {**entry, "labels": labels}
        return {**stated, "name": self.url, "objects": objects}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Store facts about a series, which is fetched for that purpose."""
        self.get_image_uri(image_id)
        super().update_image_info(image_id, info)

    def study_path(self, image_id: str) -> Path:
        """Folder of a series, fetched if it is not here yet."""
        if image_id not in self.list_images():
            raise not_found("series", image_id, self.list_images())
        return self._fetched(image_id)

    def get_image_uri(self, image_id: str) -> str:
        """A NIfTI file of a series, on the grid that inference uses."""
        path = safe_join(self._datastore_path, f"{image_id}.nii.gz")
        if not path.is_file():
            study = self._study(image_id)
            write_image(path, study.image[0].numpy(), study)
            self.refresh()
        return str(path)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Keep a label map here; a final one also becomes a DICOM SEG in the archive."""
        self.get_image_uri(image_id)
        if label_tag != FINAL:
            return super().save_label(image_id, label_filename, label_tag, label_info)
        study = self._study(image_id)
        table = self._table(label_info)
        labels = read_label_map(label_filename, study.grid)
        with tempfile.TemporaryDirectory() as folder:
            seg = Path(folder) / "seg.dcm"
            write_segmentation(seg, labels, study, table, Algorithm("MONAI Label", "1"), by_hand=True)
            push(self.url, [seg], self.access)
        self._listed = (0.0, [], {})
        names = [{"name": s.name, "idx": s.value} for s in table]
        return super().save_label(image_id, label_filename, label_tag, {**label_info, "label_info": names})

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The label map of an image; a final one that is not here comes from the archive's DICOM SEG."""
        here = super().get_label_uri(label_id, label_tag)
        if (here and Path(here).is_file()) or label_tag != FINAL:
            return here
        segmentations = self._listing()[1]
        if label_id not in segmentations:
            raise not_found("label of series", label_id, self.get_labeled_images())
        study = self._study(label_id)
        self.get_image_uri(label_id)
        (file, *_) = sorted(self._fetched(segmentations[label_id]).iterdir())
        labels, names = read_segmentation(file, study.grid)
        with tempfile.TemporaryDirectory() as folder:
            path = write_label_map(Path(folder) / f"{label_id}.nii.gz", labels, study)
            info = {"label_info": [{"name": name, "idx": k} for k, name in enumerate(names, start=1)]}
            LocalDatastore.save_label(self, label_id, str(path), FINAL, info)
        return super().get_label_uri(label_id, FINAL)

    def annotated(self) -> list[dict[str, Any]]:
        """As for a folder of files, after fetching the labels from the archive."""
        for image in self.get_labeled_images():
            self.get_label_uri(image, FINAL)
        return super().annotated()

    def _table(self, label_info: dict[str, Any]) -> LabelTable:
        names, model = label_names(label_info), str(label_info.get("model"))
        if names:
            known = {s.name.lower(): s for table in self.tables.values() for s in table}
            return named_table("annotation", names, known)
        if model in self.tables or len(self.tables) == 1:
            return self.tables.get(model) or next(iter(self.tables.values()))
        raise RequestError("the names of the labels are not known; send label_info, or the model they are of")

    def _study(self, image_id: str) -> LoadedStudy:
        return read_study(only_study(self.study_path(image_id)))

    def _fetched(self, series: str) -> Path:
        folder = safe_join(self._cache, "dicom", series)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=self._cache) as inbox:
                (fetched,) = pull(self.url, {"SeriesInstanceUID": series}, Path(inbox), self.access)
                folder.parent.mkdir(exist_ok=True)
                shutil.move(fetched, folder)
        return folder

    def _listing(self) -> tuple[list[str], dict[str, str]]:
        """Image series, and for those with a saved segmentation the series of the newest one."""
        if time.monotonic() >= self._listed[0]:
            start = time.monotonic()
            images = {s.SeriesInstanceUID for modality in self.modalities for s in self._search(modality)}
            segmentations: dict[str, str] = {}
            for seg in sorted(self._search("SEG"), key=lambda s: str(s.get("ContentDate", ""))):
                uid = str(seg.SeriesInstanceUID)
                if uid not in self._saved_for:
                    self._saved_for[uid] = self._images_saved_in(seg)
                segmentations |= dict.fromkeys(self._saved_for[uid], uid)
            now = time.monotonic()
            # Frequent listings would keep a slow archive from doing anything else.
            again = now + max(_SECONDS, _REST * (now - start))
            self._listed = (again, sorted(images), segmentations)
        return self._listed[1], self._listed[2]

    def _images_saved_in(self, seg: Dataset) -> tuple[str, ...]:
        """The series that a segmentation belongs to; none where a person did not make it."""
        headers = self._client.retrieve_series_metadata(seg.StudyInstanceUID, seg.SeriesInstanceUID)
        return tuple(
            str(referenced.SeriesInstanceUID)
            for header in map(Dataset.from_json, headers)
            if is_by_hand(header)
            for referenced in header.get("ReferencedSeriesSequence", [])
        )

    def _search(self, modality: str) -> Iterator[Dataset]:
        """Series of a modality, fetched page by page; segmentations of all studies that match the query."""
        levels = ("Series", "Modality", "BodyPart")
        query = {k: v for k, v in self.query.items() if modality != "SEG" or not k.startswith(levels)}
        seen: set[str] = set()
        while True:
            page = self._client.search_for_series(
                search_filters={**query, "Modality": modality}, limit=_PAGE, offset=len(seen) or None
            )
            found = [Dataset.from_json(series) for series in page]
            new = [series for series in found if series.SeriesInstanceUID not in seen]
            yield from new
            seen |= {str(series.SeriesInstanceUID) for series in new}
            # A server that ignores the limit returns all at once; one that ignores the offset repeats itself.
            if not new or len(found) != _PAGE:
                return


def label_names(label_info: dict[str, Any]) -> list[str] | None:
    """Names of the values 1, 2, ... of a label map, as the client sent them.

    3D Slicer sends a list in the order in which it numbers the segments of the file. Its ``idx`` also counts
    segments that it leaves out of the file, so that it is of no use.
    """
    sent = label_info.get("label_info")
    if not isinstance(sent, list) or not sent:
        return None
    return [str(entry.get("name", "")) for entry in sent]
