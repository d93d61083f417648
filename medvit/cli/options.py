"""Arguments and options that several verbs share, each with one help text and one check."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvit.cli.completion import complete_bundles, complete_languages, complete_structures, words
from medvit.errors import MedvitError
from medvit.runs import options as checks

if TYPE_CHECKING:
    from medvit.bundles import Bundle

# Headings of groups of options in the help.
PATIENT = "The patient and earlier studies"
NETWORKS = "How the network runs"
RESULTS = "What is written"

Studies = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, globs or manifests (JSON, CSV).",
        metavar="STUDY...",
        callback=lambda paths: list(checks.checked_inputs(paths)),
    ),
]


BundleName = Annotated[
    str,
    typer.Argument(
        help="Name of an installed bundle, or a bundle folder with --trust.", autocompletion=complete_bundles
    ),
]
Trust = Annotated[
    bool, typer.Option(help="Run the configuration of a bundle folder that was not installed with medvit.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the results.", callback=checks.checked_output)
]
Device = Annotated[
    str,
    typer.Option(
        rich_help_panel=NETWORKS,
        help=f"Device to compute on: {checks.DEVICES}.",
        callback=checks.checked_device,
        autocompletion=words("auto", "cpu", "cuda", "cuda:0", "cuda:1", "gpu", "mps"),
    ),
]
Amp = Annotated[
    str,
    typer.Option(
        metavar="bf16|fp16|off",
        autocompletion=words(*checks.PRECISIONS),
        rich_help_panel=NETWORKS,
        help="Compute networks in half precision: faster on a GPU, but some voxels get another label.",
    ),
]
Tf32 = Annotated[
    bool,
    typer.Option(
        "--tf32", rich_help_panel=NETWORKS, help="Let an NVIDIA GPU round the factors of float32 products."
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="|".join(checks.BACKENDS),
        rich_help_panel=NETWORKS,
        help="Engine that runs the networks on a CPU; auto takes OpenVINO where it was measured faster.",
    ),
]


class SegType(StrEnum):
    """Kinds of DICOM segmentation."""

    auto = "auto"
    binary = "binary"
    labelmap = "labelmap"


Spacing = Annotated[
    tuple[float, float, float] | None,
    typer.Option(metavar="X Y Z", help="Voxel size in mm, left-right, front-back and feet-head."),
]
WindowSize = Annotated[
    tuple[int, int, int] | None,
    typer.Option(metavar="X Y Z", help="Size of a window in voxels, left-right, front-back and feet-head."),
]


_FAST_OVERLAP = 0.25


def inference_settings(
    device: Device = "auto",
    amp: Amp = "off",
    tf32: Tf32 = False,
    backend: Backend = "torch",
    overlap: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=NETWORKS,
            help="Overlap of neighbouring windows, as a share from 0 to below 1.",
            callback=checks.checked_overlap,
        ),
    ] = None,
    tta: Annotated[
        bool | None,
        typer.Option(
            "--tta/--no-tta",
            rich_help_panel=NETWORKS,
            help="Average with the prediction for the image mirrored left to right. Default: the bundle's.",
        ),
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction",
            rich_help_panel=NETWORKS,
            help="Correct uneven brightness of head MR first (N4).",
        ),
    ] = False,
    report: Annotated[bool, typer.Option(rich_help_panel=RESULTS, help="Write report.html.")] = True,
    pdf: Annotated[bool, typer.Option(rich_help_panel=RESULTS, help="Write report.pdf.")] = False,
    dicom: Annotated[
        bool,
        typer.Option(
            rich_help_panel=RESULTS, help="Write DICOM SEG, SR and PDF for studies that came as DICOM."
        ),
    ] = False,
    dicom_anyway: Annotated[
        bool,
        typer.Option(
            "--dicom-anyway", rich_help_panel=RESULTS, help="Write DICOM results of red studies as well."
        ),
    ] = False,
    anonymous: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            rich_help_panel=RESULTS,
            help="Remove everything that could identify a person from the DICOM results.",
        ),
    ] = False,
    seg_type: Annotated[
        SegType,
        typer.Option(rich_help_panel=RESULTS, help="Kind of DICOM segmentation; auto takes the smaller one."),
    ] = SegType.auto,
    rtstruct: Annotated[
        bool,
        typer.Option(
            "--rtstruct",
            rich_help_panel=RESULTS,
            help="Write a DICOM RT structure set beside the segmentation.",
        ),
    ] = False,
    structures: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            rich_help_panel=RESULTS,
            help="Only these structures in label map, tables, report and DICOM; a name without its side "
            "stands for both.",
            autocompletion=complete_structures,
        ),
    ] = None,
    separate: Annotated[
        bool,
        typer.Option(
            "--separate",
            rich_help_panel=RESULTS,
            help="Write a mask of each structure into structures/ as well.",
        ),
    ] = False,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            rich_help_panel=NETWORKS,
            help="Overlap windows by a quarter instead of a half: faster, but less accurate at their edges. "
            "It has no effect on bundles that overlap by a quarter anyway, such as segformer3d_brain.",
        ),
    ] = False,
    viewer: Annotated[
        bool, typer.Option(rich_help_panel=RESULTS, help="Put an interactive viewer into report.html.")
    ] = False,
    language: Annotated[
        str,
        typer.Option(
            rich_help_panel=RESULTS,
            help="Language of the reports: en, de or fr.",
            callback=checks.checked_language,
            autocompletion=complete_languages,
        ),
    ] = "en",
    show_patient: Annotated[
        bool, typer.Option(rich_help_panel=RESULTS, help="Name the patient in the reports.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            help="Keep studies that are done with this input and these settings, and do not retry what "
            "was refused."
        ),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of another input or another bundle.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Accept studies outside the bundle's scope; every output is marked."),
    ] = False,
) -> dict[str, Any]:
    """Settings of `medvit run` and `medvit cohort`, with the configuration values they set by identifier."""
    if fast and (overlap is not None or tta):
        raise MedvitError("--fast sets the overlap and turns mirroring off; leave out --overlap and --tta")
    asked = {
        "--rtstruct": rtstruct,
        "--seg-type": seg_type is not SegType.auto,
        "--dicom-anyway": dicom_anyway,
        "--deidentify": anonymous,
    }
    if not dicom and (idle := [option for option, given in asked.items() if given]):
        raise MedvitError(f"{' and '.join(idle)} would do nothing without --dicom; give that as well")
    overrides: dict[str, Any] = {
        "resume": resume, "overwrite": overwrite,
        "report": report, "pdf": pdf, "dicom": dicom, "deidentify": anonymous, "viewer": viewer,
        "language": language, "show_patient": show_patient, "force": force,
        **checks.execution_settings(amp, tf32, backend),
    }  # fmt: skip
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    if seg_type is not SegType.auto:
        overrides["writer#options#seg_type"] = seg_type.value
    if rtstruct:
        overrides["writer#options#rtstruct"] = True
    if chosen := checks.named_structures(() if structures is None else structures):
        overrides["writer#options#structures"] = chosen
    if separate:
        overrides["writer#options#separate"] = True
    if fast:
        overrides["writer#settings#fast"] = True
    if dicom_anyway:
        overrides["writer#options#dicom_anyway"] = True
    if overlap is not None:
        overrides["overlap"] = overlap
    if tta is not None or fast:
        overrides["tta"] = bool(tta)
    if bias_correction:
        overrides["bias_correction"] = True
    return overrides


def fit_settings(bundle: Bundle, settings: dict[str, Any]) -> None:
    """Complete the settings that depend on the bundle: names of structures, and the overlap for ``--fast``.

    Raises
    ------
    MedvitError
        If the bundle does not segment the structures that were asked for.
    """
    if settings.get("writer#options#structures") or settings.get("writer#options#separate"):
        bundle.structures(settings.get("writer#options#structures", ()))
    if settings.get("writer#settings#fast"):
        usual = json.loads(bundle.config("inference").read_text(encoding="utf-8")).get("overlap")
        if isinstance(usual, int | float) and usual > _FAST_OVERLAP:
            settings["overlap"] = _FAST_OVERLAP
            said = f"windows overlap by {_FAST_OVERLAP:.0%} instead of {usual:.0%}"
        else:
            # Less overlap than this hardly ever saves a window, as measured on whole heads.
            del settings["writer#settings#fast"]
            said = (
                f"does nothing for {bundle.name}, whose windows overlap by no more than {_FAST_OVERLAP:.0%}"
            )
        typer.echo(f"--fast: {said}", err=True)
