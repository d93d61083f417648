"""The results of a study in its own folder: all of them or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from medvit import __version__
from medvit.bundles import Bundle
from medvit.data import Study, safe_join, write_image, write_label_map
from medvit.data.labels import LabelTable
from medvit.engines.outcome import StudyOutcome
from medvit.engines.weights import sha256_of

SOFTWARE = ("medvit", "monai", "torch", "numpy", "nibabel", "pydicom")


@contextmanager
def study_folder(output_dir: Path, study_id: str) -> Iterator[Path]:
    """A folder to fill that becomes ``output_dir/study_id`` once the block ends well.

    Whatever stood there before is replaced as a whole; when the block fails it stays as it was.
    """
    final = safe_join(output_dir, study_id)
    partial = safe_join(output_dir, f".partial-{study_id.replace('/', '_')}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class StudyWriter:
    """Writes the label map or restored image of a study, its measurements and its report.

    Parameters
    ----------
    output_dir
        Results of a study go to a folder of its name in here.
    bundle_root
        Folder of the bundle, whose metadata says what its labels mean.
    checkpoint
        The weights that were used.
    report
        Whether to write ``report.html``.
    pdf
        Whether to write ``report.pdf``.
    dicom
        Whether to write a DICOM segmentation, structured report and encapsulated PDF for studies that came
        as DICOM.
    show_patient
        Whether reports show the patient's name and identifier.
    settings
        How the bundle was set, for the report.
    """

    def __init__(
        self,
        output_dir: str | Path,
        bundle_root: str | Path,
        checkpoint: str | Path,
        *,
        report: bool = True,
        pdf: bool = False,
        dicom: bool = False,
        show_patient: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.bundle = Bundle(Path(bundle_root))
        self.checkpoint = Path(checkpoint)
        self.report, self.pdf, self.dicom, self.show_patient = report, pdf, dicom, show_patient
        self.settings = dict(settings or {})
        self._provenance: dict[str, Any] | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """What ran: bundle, weights, software, settings."""
        if self._provenance is None:
            self._provenance = {
                "bundle": self.bundle.name,
                "bundle_version": self.bundle.version,
                "weights_sha256": sha256_of(self.checkpoint),
                "software": software_versions(),
                "settings": self.settings,
            }
        return self._provenance

    def write(self, study: Study, prediction: MetaTensor, outcome: StudyOutcome) -> None:
        """Write what belongs to `study` and note it in `outcome`."""
        voxels = prediction.squeeze(0).cpu().numpy()
        table = self.bundle.label_table
        with study_folder(self.output_dir, study.id) as folder:
            if table is None:
                write_image(folder / "image.nii.gz", voxels, study)
            else:
                names = {s.value: s.name for s in table}
                write_label_map(folder / "labels.nii.gz", voxels, study, names)
                self._write_report(folder, study, voxels, table, outcome)
            outcome.outputs = sorted(
                p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
            )

    def _write_report(
        self, folder: Path, study: Study, label_map: np.ndarray, table: LabelTable, outcome: StudyOutcome
    ) -> None:
        from medvit.reports import make_report, write_html, write_json, write_pdf

        report = make_report(
            study.id,
            label_map,
            study.grid,
            table,
            study.image[0].numpy(),
            facts=study.series[0].facts,
            expected_modalities=self.bundle.facts.get("modality", ()),
            provenance=self.provenance,
            timings=dict(outcome.seconds),
            patient=study.patient if self.show_patient else {},
            notes=study.notes,
        )
        outcome.volumes_ml = {m.structure.name: m.volume_ml for m in report.measurements.structures}
        write_json(report, folder / "measurements.json")
        if self.report:
            write_html(report, folder / "report.html", show_patient=self.show_patient)
        as_dicom = self.dicom and study.series[0].format == "dicom"
        if self.pdf or as_dicom:
            write_pdf(report, folder / "report.pdf", show_patient=self.show_patient)
        if as_dicom:
            self._write_dicom(folder, study, label_map, table, outcome.volumes_ml)

    def _write_dicom(
        self,
        folder: Path,
        study: Study,
        label_map: np.ndarray,
        table: LabelTable,
        volumes: Mapping[str, float],
    ) -> None:
        from medvit.data.dicom_out import Algorithm, write_segmentation_results

        assert study.grid is not None, "a written study has been read"
        write_segmentation_results(
            folder / "dicom",
            study.series[0],
            label_map,
            study.grid,
            table,
            volumes,
            Algorithm(self.bundle.name, self.bundle.version, self.provenance["weights_sha256"]),
            pdf=folder / "report.pdf",
        )


def software_versions() -> dict[str, str]:
    """Versions of what computed and wrote the results."""
    from importlib.metadata import version

    return {name: __version__ if name == "medvit" else version(name) for name in SOFTWARE}
