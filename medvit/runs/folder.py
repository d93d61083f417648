"""The results of a study: label map or image, measurements and report, in its own folder."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor

from medvit import __version__
from medvit.bundles import Bundle, Result
from medvit.bundles.gate import forced_reason
from medvit.bundles.segmentation import grid_of
from medvit.errors import MedvitError
from medvit.runs.done import disk_full, input_sha256, study_folder
from medvit.runs.outcome import StudyOutcome, cause_of
from medvit.runs.plan import refuse_other_results
from medvit.runs.record import software_versions
from medvit.runs.work import note_verdict
from medvit.studies import LoadedStudy, Study, safe_join, safe_name, sha256_of, write_image, write_label_map
from medvit.studies.labels import LabelTable, Structure, keep_values
from medvit.studies.study import Grid, Series

if TYPE_CHECKING:
    from medvit.reports import StudyReport
    from medvit.studies.dicom_out import Algorithm
    from medvit.studies.dicom_out.seg import Encoding


@dataclass(frozen=True)
class ResultOptions:
    """Results that are written besides the label map or image, and their form.

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
    dicom_anyway
        Whether to write DICOM results of studies whose light is red as well.
    seg_type
        ``"binary"`` or ``"labelmap"`` DICOM segmentations; ``"auto"`` takes the smaller form.
    rtstruct
        Whether to write a DICOM RT structure set as well.
    structures
        Names of the structures that label map, tables, report and DICOM results are about; all by default.
        Quality control, shares and totals go by the whole label map.
    separate
        Whether to write a mask of each structure into ``structures/`` as well, empty where it was not found.
    language
        Language of the reports: ``"en"``, ``"de"`` or ``"fr"``.
    show_patient
        Whether reports show the patient's name and identifier.
    timings
        Whether reports state the seconds of each stage; if not, equal studies have equal results.
    priors
        ``measurements.json`` of earlier studies of the patient, to compare with.
    age, sex, study_date
        Age in years, ``"F"`` or ``"M"``, and date (YYYY-MM-DD), which override the header.

    Raises
    ------
    MedvitError
        If the language is unknown, or an earlier study cannot be read.
    """

    report: bool = True
    viewer: bool = False
    pdf: bool = False
    dicom: bool = False
    dicom_anyway: bool = False
    deidentify: bool = False
    seg_type: Encoding = "auto"
    rtstruct: bool = False
    structures: Sequence[str] = ()
    separate: bool = False
    language: str = "en"
    show_patient: bool = False
    timings: bool = True
    priors: Sequence[str] = ()
    age: float | None = None
    sex: str | None = None
    study_date: str | None = None

    def __post_init__(self) -> None:
        # Checked now, so that it does not fail only when the first study is written.
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
        Folder in which each study has a folder of its name.
    bundle_root
        Folder of the bundle, whose metadata says what its labels mean.
    checkpoint
        The weights that were used.
    options
        Further results, besides the label map or image.
    settings
        Settings of the bundle, for the report.

    Raises
    ------
    MedvitError
        If structures are asked for that the bundle does not segment.
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
        self._chosen: tuple[Structure, ...] = ()
        if self.options.structures or self.options.separate:
            self._chosen = self.bundle.structures(self.options.structures)
        if self.options.structures:
            self.settings["structures"] = [s.name for s in self._chosen]
        self._provenance: dict[str, Any] | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """Provenance: bundle, weights, software, settings."""
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
        """What distinguishes results of the same input: bundle, configuration, weights and settings."""
        return {
            "medvit": __version__,
            "bundle": f"{self.bundle.name} {self.bundle.version}",
            "config_sha256": sha256_of(self.bundle.config("inference")),
            "weights_sha256": self.provenance["weights_sha256"],
            "settings": self.settings | {k: v for k, v in asdict(self.options).items() if k != "timings"},
        }

    def foresee(self, study: Study, outcome: StudyOutcome) -> None:
        """Report, before `study` is inferred, which of the requested outputs cannot be made."""
        if not self._as_dicom(study):
            return
        from medvit.studies.dicom_out import can_write_dicom

        if why := can_write_dicom(study):
            outcome.missing["dicom"] = why
            outcome.tell("note", f"DICOM results cannot be made: {why}")

    def report(self, result: Result) -> StudyReport:
        """Measurements and quality control of a result in memory."""
        outcome = StudyOutcome(result.study.id, seconds=dict(result.seconds), details=dict(result.details))
        return self._report(result.study, result.voxels, result.grid, outcome)

    def save(self, result: Result, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a result in memory below `folder`; the folder of its study.

        Parameters
        ----------
        overwrite
            Replace results of another input or bundle, and files that no run has made.

        Raises
        ------
        MedvitError
            If the study's folder holds what must stay, or not everything could be written.
        """
        writer = copy.copy(self)
        writer.output_dir = Path(folder)
        outcome = StudyOutcome(result.study.id, seconds=dict(result.seconds), details=dict(result.details))
        if result.study.series[0].paths:
            outcome.inputs = input_sha256(result.study)
        else:  # an image in memory is its own input, which lies where its affine says
            image = result.study.image.numpy()
            digest = hashlib.sha256(repr(image.shape).encode() + result.study.grid.affine.tobytes())
            digest.update(image.tobytes())
            outcome.inputs = [digest.hexdigest()]
        if not overwrite:
            refuse_other_results(safe_join(folder, result.study.id), self.made_by(), outcome.inputs)
        affine = torch.from_numpy(result.grid.affine)
        writer.write(result.study, MetaTensor(torch.from_numpy(result.voxels)[None], affine=affine), outcome)
        if outcome.missing:
            missing = "; ".join(f"{name}: {why}" for name, why in outcome.missing.items())
            raise MedvitError(f"{folder}: not everything was written: {missing}")
        return writer.output_dir / result.study.id

    def write(self, study: LoadedStudy, prediction: MetaTensor, outcome: StudyOutcome) -> None:
        """Write the results of `study` and note them in `outcome`.

        Label map or image must be written. Any other failure affects that output alone, which is then
        named in `outcome.missing`.
        """
        voxels, grid = prediction.squeeze(0).cpu().numpy(), grid_of(prediction, study)
        table = self.bundle.label_table
        made_from = self.made_by() | {"inputs": outcome.inputs or input_sha256(study)}
        with study_folder(self.output_dir, study.id, made_from, outcome.missing) as folder:
            if table is None:
                write_image(folder / "image.nii.gz", voxels, study if grid is study.grid else grid)
            else:
                self._write_label_maps(folder, study, voxels, table)
                outcome.missing |= self._not_shown(voxels, table)
            with _optional("measurements and report", outcome):
                report = self._report(study, voxels, grid, outcome)
                self._write_report(folder, study, report, outcome)
                self._write_dicom(folder, study, report, outcome)
            outcome.outputs = sorted(
                p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
            )

    def kept(self, voxels: np.ndarray, table: LabelTable) -> tuple[np.ndarray, dict[int, str]]:
        """A label map of `table` with the chosen structures alone, and their names by value in files."""
        if not self.options.structures:
            return voxels, table.file_names
        names = {s.file_value: s.name for s in self._chosen}
        return keep_values(voxels, [s.value for s in self._chosen], len(table)), names

    def _write_label_maps(
        self, folder: Path, study: LoadedStudy, voxels: np.ndarray, table: LabelTable
    ) -> None:
        voxels, names = self.kept(voxels, table)
        write_label_map(folder / "labels.nii.gz", table.to_files(voxels), study, names)
        if not self.options.separate:
            return
        (folder / "structures").mkdir()
        shown = table.shown(np.unique(voxels).tolist())
        for structure in (s for s in self._chosen if s in shown):
            file = folder / "structures" / f"{safe_name(structure.name)}.nii.gz"
            if file.exists():  # two names that file systems cannot tell apart
                file = file.with_name(f"{safe_name(structure.name)}_{structure.file_value}.nii.gz")
            write_label_map(file, voxels == structure.value, study)

    def _not_shown(self, voxels: np.ndarray, table: LabelTable) -> dict[str, str]:
        """Why the study can show none of the structures that were asked for; empty if it can."""
        if not self.options.structures:
            return {}
        shown = table.shown(np.unique(voxels).tolist())
        if set(self._chosen) & set(shown):
            return {}
        names, instead = (", ".join(s.name for s in some) for some in (self._chosen, shown))
        return {"structures": f"{names} cannot be distinguished in this study, which shows {instead}"}

    def _report(
        self, study: LoadedStudy, voxels: np.ndarray, grid: Grid, outcome: StudyOutcome
    ) -> StudyReport:
        from medvit.reports import make_report, read_prior, report_restored

        table = self.bundle.label_table
        source, described = study.image[0].numpy(), self._described(study, outcome)
        if table is None:
            return report_restored(study, voxels, grid, **described)

        def make(*paths: str) -> StudyReport:
            priors = tuple(read_prior(path) for path in paths)
            report = make_report(study.id, voxels, study.grid, table, source, priors=priors, **described)
            return report.only(self._chosen) if self.options.structures else report

        if self.options.priors:
            with _optional("comparison with earlier studies", outcome):
                return make(*self.options.priors)
        return make()

    def _write_report(self, folder: Path, study: Study, report: StudyReport, outcome: StudyOutcome) -> None:
        from medvit.reports import write_html, write_json

        options = self.options
        words: dict[str, Any] = {"language": options.language, "show_patient": options.show_patient}
        write_json(report, folder / "measurements.json", show_patient=options.show_patient)
        note_verdict(outcome, folder)
        if options.report:
            with _optional("report.html", outcome):
                write_html(report, folder / "report.html", viewer=options.viewer, **words)
        if options.pdf or self._as_dicom(study):
            with _optional("report.pdf", outcome):
                # The library behind it takes most of a second to import.
                from medvit.reports import write_pdf

                write_pdf(report, folder / "report.pdf", **words)

    def _write_dicom(
        self, folder: Path, study: LoadedStudy, report: StudyReport, outcome: StudyOutcome
    ) -> None:
        if not self._as_dicom(study) or "dicom" in outcome.missing:
            return
        if outcome.light == "red" and not self.options.dicom_anyway:
            outcome.missing["dicom"] = f"the study is red ({outcome.finding}); --dicom-anyway writes it"
            return
        with _optional("dicom", outcome, folder / "dicom"):
            from medvit.studies.dicom_out import write_restoration_results, write_segmentation_results

            source = self._dicom_source(folder, study)
            pdf = folder / "report.pdf" if (folder / "report.pdf").is_file() else None
            if len(report.table):
                write_segmentation_results(
                    folder / "dicom", source, report.label_map, report.grid, report.table,
                    outcome.volumes_ml, self._algorithm(), pdf=pdf, encoding=self.options.seg_type,
                    rtstruct=self.options.rtstruct, verdict=str(report.verdict()),
                )  # fmt: skip
            else:
                assert report.image is not None, "a restoration has its image"
                write_restoration_results(
                    folder / "dicom", source, report.image, report.grid, self._algorithm(),
                    description=self.bundle.facts.get("restoration", "restored"), pdf=pdf,
                    estimated=not report.grid.matches(study.grid),
                )  # fmt: skip

    def _described(self, study: Study, outcome: StudyOutcome) -> dict[str, Any]:
        """What a report says besides its figures."""
        from medvit.reports import stated_of

        return {
            "facts": study.series[0].facts,
            "expected_modalities": self.bundle.facts.get("modality", ()),
            "forced": forced_reason(study),
            "provenance": self.provenance,
            "timings": dict(outcome.seconds) if self.options.timings else {},
            "patient": study.patient,
            "stated": stated_of(self.options.age, self.options.sex, self.options.study_date),
            "notes": study.notes,
        }

    def _as_dicom(self, study: Study) -> bool:
        return self.options.dicom and study.series[0].format == "dicom"

    def _dicom_source(self, folder: Path, study: Study) -> Series:
        """The series that DICOM results refer to: the study's own, or a de-identified copy."""
        from medvit.studies.deidentification import deidentify_files

        series = study.series[0]
        if not self.options.deidentify:
            return series
        images = deidentify_files(series.paths, folder / "dicom" / "images")
        return replace(series, paths=images.files)

    def _algorithm(self) -> Algorithm:
        from medvit.studies.dicom_out import Algorithm

        return Algorithm(self.bundle.name, self.bundle.version, self.provenance["weights_sha256"])


@contextmanager
def _optional(name: str, outcome: StudyOutcome, folder: Path | None = None) -> Iterator[None]:
    """Note an output that cannot be made as missing, and continue; nothing unfinished stays in `folder`."""
    try:
        yield
    except Exception as error:
        if disk_full(error) is not None:  # nothing else could be written either
            raise
        outcome.missing[name] = cause_of(error)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
