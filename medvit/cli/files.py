"""`medvit check` and `medvit deidentify`: files on disk, without inference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.completion import words
from medvit.cli.monai_import import import_monai_for
from medvit.cli.options import Output, Trust
from medvit.cli.talk import Answer, answering
from medvit.errors import MedvitError, did_you_mean
from medvit.exits import ALL_WELL, NOTHING_TO_DO, SOME_FAILED


@answering
def check(
    studies: Annotated[
        list[str],
        typer.Argument(help="Studies, or a bundle followed by studies.", metavar="[BUNDLE] STUDY..."),
    ],
    trust: Trust = False,
) -> Answer:
    """Check the headers of studies, and show which would be read or refused and why.

    If a bundle comes first, the studies are also read and compared with the intended use of the bundle.
    """
    from medvit.bundles.find import is_bundle
    from medvit.runs.options import checked_inputs

    _refuse_misspelt_bundle(studies)
    if len(studies) > 1 and is_bundle(studies[0]):
        from medvit.bundles.find import find_bundle

        bundle = find_bundle(studies[0], trust=trust)
        import_monai_for(bundle)
        # It imports MONAI, and all of it if that comes first.
        from medvit.bundles import check_for

        checked = check_for(bundle, checked_inputs(studies[1:]))
    else:
        from medvit.studies.check import check_studies

        checked = check_studies(checked_inputs(studies))
    code = NOTHING_TO_DO if not checked else ALL_WELL if checked.ok else SOME_FAILED
    return Answer(checked.as_dict(), str(checked), code)


def _refuse_misspelt_bundle(studies: list[str]) -> None:
    from medvit.bundles.find import installed_bundles, is_bundle

    first = studies[0]
    hint = did_you_mean(first, [bundle.name for bundle in installed_bundles()])
    if hint and len(studies) > 1 and not is_bundle(first) and not Path(first).expanduser().exists():
        raise MedvitError(f"{first!r} is neither a study nor an installed bundle{hint}")


@answering
def deidentify(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM images.", exists=True, file_okay=False)],
    output: Output,
    dates: Annotated[
        str,
        typer.Option(help="Treatment of dates: remove or shift.", autocompletion=words("remove", "shift")),
    ] = "remove",
) -> Answer:
    """Copy DICOM images without anything that could identify a person (DICOM PS3.15, Basic Profile)."""
    from medvit.studies.deidentification import Profile, deidentify_folder

    if dates not in ("remove", "shift"):
        raise MedvitError(f"--dates must be remove or shift, not {dates!r}")
    if output.is_dir() and any(output.iterdir()):
        raise MedvitError(
            f"{output} is not empty, and the same images might stand in it twice, under other identifiers; "
            "give a folder that is empty or does not exist"
        )
    done = deidentify_folder(folder, output, Profile(dates="shift" if dates == "shift" else "remove"))
    left_out = [{"path": str(path), "why": why} for path, why in done.left_out]
    lines = [f"{len(done.files)} images written, {len(left_out)} files left out"]
    lines += [f"  left out: {path}: {why}" for path, why in done.left_out]
    return Answer({"written": [str(p) for p in done.files], "left_out": left_out}, "\n".join(lines))
