"""The results of a study: label map or image, measurements and report, in its own folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import MetaTensor

from medvit import __version__
from medvit.bundles import Bundle
from medvit.runs.done import input_sha256, study_folder
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Study, sha256_of, write_image, write_label_map
from medvit.studies.labels import LabelTable
from medvit.studies.study import Series

if TYPE_CHECKING:
    from medvit.reports import StudyReport
    from medvit.studies.dicom_out import Algorithm

SOFTWARE = ("medvit", "monai", "torch", "numpy", "nibabel", "pydicom")


@dataclass(frozen=True)
class ResultOptions:
    """What is written of a study beside its label map or image, and how.

    Parameters
    ----------
    report, viewer
        Whether to write ``report.html``, and whether an interactive viewer goes into it.
    pdf
        Whether to write ``report.pdf``.
    dicom
        Whether to write a DICOM segmentation and structured report, or a derived series, and an encapsulated
        PDF for studies that came as DICOM.
    deidentify
        Whether the DICOM results, and a copy of the images beside them, go without what could identify a
        person (DICOM PS3.15, Basic Profile).
    language
        Of the reports: ``"en"``, ``"de"`` or ``"fr"``.
    show_patient
        Whether reports show the patient's name and identifier.
    timings
        Whether reports state the seconds of each stage; without, equal studies have equal results.
    priors
        ``measurements.json`` of earlier studies of the patient, to compare with.
    age, sex, study_date
        Age in years, ``"F"`` or ``"M"``, and date (YYYY-MM-DD), which go before what the header says.

    Raises
    ------
    MedvitError
        If there is no such language, or an earlier study cannot be read.
    """

    report: bool = True
    viewer: bool = False
    pdf: bool = False
    dicom: bool = False
    deidentify: bool = False
    language: str = "en"
    show_patient: bool = False
    timings: bool = True
    priors: Sequence[str] = ()
    age: float | None = None
    sex: str | None = None
    study_date: str | None = None

    def __post_init__(self) -> None:
        # What could only fail when the first study is written fails before it is begun.
        from medvit.reports import load_language, read_prior, stated_of

        load_language(self.language)
        for path in self.priors:
            read_prior(path)
        stated_of(self.age, self.sex, self.study_date)


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
    options
        What is written beside the label map or image.
    settings
        How the bundle was set, for the report.
    """

    def __init__(
        self,
        output_dir: str | Path,
        bundle_root: str | Path,
        checkpoint: str | Path,
        *,
        options: ResultOptions | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.bundle = Bundle(Path(bundle_root))
        self.checkpoint = Path(checkpoint)
        self.options = options or ResultOptions()
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

    def made_by(self) -> dict[str, Any]:
        """What tells results of the same input apart: bundle, configuration, weights and settings."""
        return {
            "medvit": __version__,
            "bundle": f"{self.bundle.name} {self.bundle.version}",
            "config_sha256": sha256_of(self.bundle.config("inference")),
            "weights_sha256": self.provenance["weights_sha256"],
            "settings": self.settings | asdict(self.options),
        }

    def made_from(self, study: Study) -> dict[str, Any]:
        """What the results of `study` are made from, for its done mark."""
        return self.made_by() | {"inputs": input_sha256(study)}

    def write(self, study: Study, prediction: MetaTensor, outcome: StudyOutcome) -> None:
        """Write what belongs to `study` and note it in `outcome`."""
        voxels = prediction.squeeze(0).cpu().numpy()
        table = self.bundle.label_table
        with study_folder(self.output_dir, study.id, self.made_from(study)) as folder:
            if table is None:
                write_image(folder / "image.nii.gz", voxels, study)
                self._write_restoration(folder, study, voxels, outcome)
            else:
                write_label_map(folder / "labels.nii.gz", table.to_files(voxels), study, table.file_names)
                self._write_segmentation(folder, study, voxels, table, outcome)
            outcome.outputs = sorted(
                p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
            )

    def _write_segmentation(
        self, folder: Path, study: Study, label_map: np.ndarray, table: LabelTable, outcome: StudyOutcome
    ) -> None:
        from medvit.reports import make_report, read_prior
        from medvit.studies.dicom_out import write_segmentation_results

        assert study.image is not None and study.grid is not None, "a written study has been read"
        report = make_report(
            study.id, label_map, study.grid, table, study.image[0].numpy(),
            priors=tuple(read_prior(path) for path in self.options.priors), **self._described(study, outcome),
        )  # fmt: skip
        outcome.volumes_ml = {m.structure.name: m.volume_ml for m in report.measurements.structures}
        self._write_report(folder, report, pdf=self._as_dicom(study))
        if self._as_dicom(study):
            write_segmentation_results(
                folder / "dicom", self._dicom_source(folder, study), label_map, study.grid, table,
                outcome.volumes_ml, self._algorithm(), pdf=folder / "report.pdf",
            )  # fmt: skip

    def _write_restoration(
        self, folder: Path, study: Study, restored: np.ndarray, outcome: StudyOutcome
    ) -> None:
        from medvit.reports import make_restoration_report
        from medvit.studies.dicom_out import write_restoration_results

        assert study.image is not None and study.grid is not None, "a written study has been read"
        report = make_restoration_report(
            study.id, restored, study.image[0].numpy(), study.grid, **self._described(study, outcome)
        )
        self._write_report(folder, report, pdf=self._as_dicom(study))
        if self._as_dicom(study):
            write_restoration_results(
                folder / "dicom", self._dicom_source(folder, study), restored, study.grid, self._algorithm(),
                description=self.bundle.facts.get("restoration", "restored"), pdf=folder / "report.pdf",
            )  # fmt: skip

    def _described(self, study: Study, outcome: StudyOutcome) -> dict[str, Any]:
        """What a report says beside its figures."""
        from medvit.reports import stated_of

        return {
            "facts": study.series[0].facts,
            "expected_modalities": self.bundle.facts.get("modality", ()),
            "provenance": self.provenance,
            "timings": dict(outcome.seconds) if self.options.timings else {},
            "patient": study.patient,
            "stated": stated_of(self.options.age, self.options.sex, self.options.study_date),
            "notes": study.notes,
        }

    def _write_report(self, folder: Path, report: StudyReport, pdf: bool) -> None:
        from medvit.reports import write_html, write_json, write_pdf

        options = self.options
        words: dict[str, Any] = {"language": options.language, "show_patient": options.show_patient}
        write_json(report, folder / "measurements.json", show_patient=options.show_patient)
        if options.report:
            write_html(report, folder / "report.html", viewer=options.viewer, **words)
        if options.pdf or pdf:
            write_pdf(report, folder / "report.pdf", **words)

    def _as_dicom(self, study: Study) -> bool:
        return self.options.dicom and study.series[0].format == "dicom"

    def _dicom_source(self, folder: Path, study: Study) -> Series:
        """The series that DICOM results refer to: the study's own, or a copy that names nobody."""
        from medvit.studies.deidentification import deidentify_files

        series = study.series[0]
        if not self.options.deidentify:
            return series
        images = deidentify_files(series.paths, folder / "dicom" / "images")
        return replace(series, paths=images.files)

    def _algorithm(self) -> Algorithm:
        from medvit.studies.dicom_out import Algorithm

        return Algorithm(self.bundle.name, self.bundle.version, self.provenance["weights_sha256"])


def software_versions() -> dict[str, str]:
    """Versions of what computed and wrote the results."""
    from importlib.metadata import version

    return {name: __version__ if name == "medvit" else version(name) for name in SOFTWARE}
