"""The work of a run: which studies are done, which must not be touched, and which are left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medvit.errors import MedvitError, StudyError
from medvit.runs import refusals
from medvit.runs.done import input_sha256, why_not_done
from medvit.runs.outcome import StudyOutcome
from medvit.runs.progress import RunProgress
from medvit.studies import Found, Study, safe_join
from medvit.studies.done_mark import DONE, read_mark, void_mark

RECORD, TABLE, LONG_TABLE, PAGE, FAILURES = (
    "run.json", "cohort.csv", "cohort_long.csv", "cohort.html", "failures.csv",
)  # fmt: skip
RESERVED = {RECORD, TABLE, LONG_TABLE, PAGE, FAILURES, "cohort", ".cohort"}
OTHER_RESULTS = "other-results"
_CHECKERS = 4


def refuse_reserved_ids(found: Found) -> None:
    """Refuse ids whose folders would collide with the record.

    Raises
    ------
    MedvitError
        If a study has such an id.
    """
    for one in (*found.studies, *found.refused):
        if one.id.casefold() in RESERVED or one.id.startswith((".partial-", ".earlier-")):
            raise MedvitError(
                f"the study id {one.id!r} is reserved for the record of the run; "
                "rename the file, or give the study another id in a manifest"
            )


@dataclass
class RunPlan:
    """The work of a run.

    Parameters
    ----------
    kept
        Studies that are done already.
    to_do
        Studies to process.
    redone
        Reason for each study among these that has invalid results.
    refused
        Outcomes of studies whose input was refused before, or whose folder holds results that must stay.
    """

    kept: list[Study] = field(default_factory=list)
    to_do: list[Study] = field(default_factory=list)
    redone: dict[str, str] = field(default_factory=dict)
    refused: list[StudyOutcome] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        output_dir: Path,
        made_by: Mapping[str, Any],
        studies: Sequence[Study],
        progress: RunProgress,
        *,
        resume: bool = True,
        overwrite: bool = False,
    ) -> RunPlan:
        """Compare the content of the output folder with the studies.

        Only input that has results is read for it; all other input is read once, when its turn comes.

        Parameters
        ----------
        resume, overwrite
            Same as in `medvit.runs.run_work`.
        """
        plan = cls()
        folders = [safe_join(output_dir, study.id) for study in studies]
        if earlier := sum(folder.exists() for folder in folders):
            progress.say(f"Checking the results of {earlier} of {len(studies)} studies.")
        with ThreadPoolExecutor(_CHECKERS) as checkers:
            states = checkers.map(
                lambda study, folder: _state(folder, made_by, partial(_digests, study), overwrite),
                studies,
                folders,
            )
            for study, folder, (state, why) in zip(studies, folders, states, strict=True):
                if state == "other":
                    outcome = StudyOutcome(study.id)
                    outcome.fail(StudyError(OTHER_RESULTS, why, path=folder, do=_DO))
                    plan.refused.append(outcome)
                elif state == "done" and resume:
                    plan.kept.append(study)
                elif resume and (earlier_refusal := refusals.recall(output_dir, study, made_by)):
                    plan.refused.append(earlier_refusal)
                else:
                    plan.to_do.append(study)
                    if state == "done":
                        void_mark(folder)
                    if state != "new":
                        plan.redone[study.id] = why or "it is to be done again"
        plan._tell(progress)
        return plan

    def _tell(self, progress: RunProgress) -> None:
        before = f", {len(self.refused)} refused" if self.refused else ""
        if self.kept or self.redone or self.refused:
            progress.say(f"Resuming: {len(self.kept)} done{before}, {len(self.to_do)} to do.")
        else:
            progress.say(f"Studies to do: {len(self.to_do)}.")
        for study, why in self.redone.items():
            progress.say(f"  again: {study}: {why}")


def void_results(folder: Path, made_by: Mapping[str, Any]) -> None:
    """Mark results by the same bundle as no longer valid; any others stay as they are."""
    mark = read_mark(folder)
    if mark is not None and _bundle(mark["made_from"]) == _bundle(made_by):
        void_mark(folder)


_DO = "choose another output folder, or give --overwrite to replace them"
_State = Literal["new", "done", "stale", "other"]


def refuse_other_results(folder: Path, made_by: Mapping[str, Any], inputs: list[str]) -> None:
    """Refuse to replace a folder, unless it is empty or holds results of the same bundle and input.

    Raises
    ------
    StudyError
        If there are results of another input or bundle, or files that no run has made.
    """
    state, why = _state(folder, made_by, lambda: inputs, overwrite=False)
    if state == "other":
        do = "choose another folder or name, or pass overwrite=True to replace them"
        raise StudyError(OTHER_RESULTS, why, path=folder, do=do)


def _state(
    folder: Path, made_by: Mapping[str, Any], read: Callable[[], list[str] | None], overwrite: bool
) -> tuple[_State, str]:
    """The content of a study's folder, and why it is invalid or must stay."""
    if not folder.exists():
        return "new", ""
    if not folder.is_dir():
        return "other", "is a file where the folder of a study's results should be"
    mark, inputs = read_mark(folder), read()
    if mark is None:
        if (folder / DONE).is_file() or overwrite or not any(folder.iterdir()):
            return "stale", "it was not finished"
        return "other", "holds files that no run has made, and that would be replaced"
    made_from = mark["made_from"]
    if not overwrite:
        if inputs is not None and made_from.get("inputs") != inputs:
            return "other", "holds results of another input of the same name"
        if _bundle(made_from) != _bundle(made_by):
            return "other", f"holds results of another bundle ({_bundle(made_from)})"
    if inputs is None:
        return "stale", "its input cannot be read"
    why = why_not_done(folder, made_by, lambda: inputs)
    return ("stale", why) if why else ("done", "")


def _digests(study: Study) -> list[str] | None:
    try:
        return input_sha256(study)
    except (OSError, StudyError):
        return None


def _bundle(made_by: Mapping[str, Any]) -> str:
    # Name without version; newer versions of a bundle may replace results of older ones.
    return str(made_by.get("bundle", "")).partition(" ")[0]
