"""Studies with manual labels of a data set with its own numbering of structures."""

from __future__ import annotations

from pathlib import Path

from medvit.bench.own import LabelledCase, paired_cases, single_image
from medvit.bench.protocol import Protocol, found_region, read_protocol, recognise
from medvit.bench.row import MANUAL
from medvit.bench.studies import BenchStudy, Reference
from medvit.errors import MedvitError, StudyError
from medvit.studies.files import safe_name
from medvit.studies.formats import read_label_map
from medvit.studies.labels import LabelTable


def manual_studies(
    table: LabelTable, data: Path, protocol: str | Path | None = None, cases: int | None = None
) -> list[BenchStudy]:
    """Manually segmented studies, with the structures that both `table` and the protocol have.

    Parameters
    ----------
    table
        Structures that the bundles write.
    data
        A manifest (`medvit.datasets`) or a folder of images with label maps, see `own_studies`.
    protocol
        Name or file of the protocol (`read_protocol`); by default the one that explains all values.
    cases
        Number of cases to take, in order of name; all by default.

    Raises
    ------
    MedvitError
        If there are no cases, or not exactly one protocol fits.
    StudyError
        If a label map cannot be read, or holds a value that the protocol does not explain.
    """
    found = _cases(data)[:cases]
    if not found:
        raise MedvitError(f"{data}: no image here has a label map of its name, such as NAME_seg.nii.gz")
    values = [read_label_map(case.label).values for case in found]
    present = set().union(*values)
    chosen = read_protocol(protocol, table) if protocol else recognise(present, table)
    for case, there in zip(found, values, strict=True):
        if unknown := chosen.unknown(there):
            what = f"has values that the protocol {chosen.title} does not explain: {unknown[:10]}"
            raise StudyError(
                "label-map-values", what, path=case.label, do="add them to a protocol of your own"
            )
    return [_study(case, chosen, present, table) for case in found]


def _cases(data: Path) -> list[LabelledCase]:
    if not data.exists():
        raise MedvitError(f"{data}: does not exist; give a manifest, or a folder of images and label maps")
    if not (data.is_file() or (data / "dataset.json").is_file()):
        return list(paired_cases(data))
    from medvit.datasets import find_cases, read_manifest

    manifest = read_manifest(data)
    return [
        LabelledCase(case.id, single_image(case, data), case.label)
        for case in find_cases(manifest, manifest.path.parent)
        if case.label is not None
    ]


def _study(case: LabelledCase, protocol: Protocol, present: set[int], table: LabelTable) -> BenchStudy:
    # Structures that no label map has are not compared; structures that only some lack are.
    drawn = tuple(region for region in protocol.drawn() if present & {*region.values})
    found = tuple(found_region(table, region.name) for region in drawn)
    reference = Reference(MANUAL, case.label, found, drawn)
    return BenchStudy(f"manual_{safe_name(case.id)}", case.checked_image(), (reference,))
