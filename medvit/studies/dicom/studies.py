"""From DICOM series to studies: the series that match the rules of a bundle, one for each channel."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medvit.errors import StudyError
from medvit.studies.files import safe_name
from medvit.studies.found import LeftOut, Outcome, Refused
from medvit.studies.series_rules import Rules, SeriesRules
from medvit.studies.study import Series, Study


def dicom_studies(
    files: Mapping[Path, Path],
    names: Sequence[str],
    rules: Rules,
) -> Iterator[Outcome]:
    """Studies, omissions and refusals from DICOM files.

    Parameters
    ----------
    files
        Each with its path below the input.
    names
        Names of the channels.
    rules
        For all series, or one for each channel.
    """
    from medvit.studies import dicom

    result = dicom.scan(files)
    yield from (LeftOut(one.path, one.why) for one in result.left_out)
    studies = [
        Study(study_id, (series,), patient=dict(patient))
        for study_id, series, patient in zip(_ids(result.series), result.series, result.patients, strict=True)
    ]
    if len(names) > 1:
        yield from _with_channels(studies, names, rules)
        return
    rule = rules if isinstance(rules, SeriesRules) else rules[0]
    for study in studies:
        objection = rule.objection(study.series[0].facts)
        yield LeftOut(study.path, f"the series is not one to work on: {objection}") if objection else study


def _with_channels(studies: list[Study], names: Sequence[str], rules: Rules) -> Iterator[Outcome]:
    # Only one frame of reference makes positions comparable (PS3.3, C.7.4.1).
    groups: dict[tuple[str, str], list[Study]] = defaultdict(list)
    for study in studies:
        facts = study.series[0].facts
        groups[facts.get("study", ""), facts.get("frame_of_reference") or study.id].append(study)
    for members in groups.values():
        yield from _one_study(members, names, rules)


def _one_study(members: list[Study], names: Sequence[str], rules: Rules) -> Iterator[Outcome]:
    first = members[0]
    if isinstance(rules, SeriesRules) or len(rules) != len(names):
        what = f"is DICOM, and it is unknown which of its series are the {len(names)} channels"
        do = "give one rule per channel, or list the series of each channel in a manifest"
        yield Refused(first.id, StudyError("channels-unknown", what, path=first.path, do=do))
        return
    chosen = [[s for s in members if not rule.objection(s.series[0].facts)] for rule in rules]
    if faults := [f"{len(c)} for {n}" for n, c in zip(names, chosen, strict=True) if len(c) != 1]:
        what = f"has, in one frame of reference, {' and '.join(faults)} where one per channel is needed"
        do = "narrow the rules down, or list the series of each channel in a manifest"
        yield Refused(first.id, StudyError("channels-missing", what, path=first.path, do=do))
        return
    series = tuple(one.series[0] for [one] in chosen)
    yield Study(_joint_id(chosen[0][0].id, series), series, patient=first.patient)
    for study in members:
        if study.series[0] not in series:
            yield LeftOut(study.path, "no channel asks for this series")


def _ids(found: Sequence[Series]) -> list[str]:
    """Ids that name no patient, and do not depend on how the files were given: alone, or in any folder.

    They are digests of the instances' UIDs, or otherwise of the files' contents; if several volumes are in
    the same files, also of what distinguishes these.
    """
    identities = [_identity(series) for series in found]
    times = Counter(identities)
    volumes = [
        f"|{s.facts.get('volume', '')}" if times[i] > 1 else ""
        for s, i in zip(found, identities, strict=True)
    ]
    return [
        safe_name(f"{series.facts.get('modality', 'DICOM')}-{_digest(identity + volume)}")
        for series, identity, volume in zip(found, identities, volumes, strict=True)
    ]


def _identity(series: Series) -> str:
    if known := series.facts.get("instances"):
        return str(known)
    contents = []
    for path in series.paths:
        with path.open("rb") as file:
            contents.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(sorted(contents))


def _joint_id(first: str, series: Sequence[Series]) -> str:
    return f"{first.split('-')[0]}-{_digest('|'.join(map(_identity, series)))}"


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
