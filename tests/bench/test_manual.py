"""Manual labels: values find their structures by a protocol, and what it does not explain is refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bench import manual_studies, read_protocol
from medvit.bench.protocol import installed_protocols
from medvit.errors import MedvitError
from medvit.studies.labels import load_label_table
from tests.bench.test_own import save

TABLE = load_label_table("brain")
UNSIDED = {s.unsided_name for s in TABLE}


@pytest.mark.parametrize("name", installed_protocols())
def test_protocols_explain_all_structures_but_free_fluid(name: str) -> None:
    protocol = read_protocol(name, TABLE)
    assert set(protocol.structures) == UNSIDED - {"cerebrospinal fluid"}
    assert protocol.unknown([0, 99]) == [99]


def test_protocols_agree_with_the_maps_that_bundles_learn_from() -> None:
    from medvit.synthesis import brain_anatomy

    anatomy, protocol = brain_anatomy(), read_protocol("freesurfer", TABLE)
    names = {s.value: s.unsided_name for s in TABLE}
    for name, values in protocol.structures.items():
        learnt = [anatomy.structure_of[v] for v in values if v in anatomy.structure_of]
        assert {names.get(value) for value in learnt if value} <= {name}


def test_values_tell_the_protocol(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", 100)
    save(tmp_path / "a_seg.nii.gz", 59, 60, 15, 47)  # Neuromorphometrics: thalami, fifth ventricle
    save(tmp_path / "b.nii.gz", 100)
    save(tmp_path / "b_seg.nii.gz", 44, 37)
    first, second = manual_studies(TABLE, tmp_path)
    drawn = {r.name: r.values for r in first.references[0].drawn}
    assert drawn["thalamus"] == (59, 60) and drawn["hippocampus"] == (47, 48)
    assert set(drawn) == {"thalamus", "hippocampus", "cerebral white matter", "caudate nucleus"}
    found = {r.name: set(r.values) for r in second.references[0].found}
    assert found["thalamus"] == {TABLE.by_name[f"{side} thalamus"].value for side in ("left", "right")}
    assert [s.id for s in manual_studies(TABLE, tmp_path, cases=1)] == ["manual_a"]


def test_what_no_protocol_explains_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", 100)
    label = save(tmp_path / "a_seg.nii.gz", 59, 250)
    with pytest.raises(MedvitError, match=r"no protocol explains.*250"):
        manual_studies(TABLE, tmp_path)
    with pytest.raises(MedvitError, match=rf"{label.name}.*Neuromorphometrics does not explain: \[250\]"):
        manual_studies(TABLE, tmp_path, "neuromorphometrics")
    save(tmp_path / "a_seg.nii.gz", 11)
    with pytest.raises(MedvitError, match="freesurfer and neuromorphometrics; choose one with --protocol"):
        manual_studies(TABLE, tmp_path)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"structures": {"left thalamus": 11}}))
    (study,) = manual_studies(TABLE, tmp_path, own)
    assert study.references[0].found[0].values == (TABLE.by_name["left thalamus"].value,)


def test_a_manifest_says_where_the_cases_are(tmp_path: Path) -> None:
    save(tmp_path / "x.nii.gz", 100)
    save(tmp_path / "y.nii.gz", 60)
    manifest = {"labels": {"60": "any"}, "cases": [{"id": "x", "image": "x.nii.gz", "label": "y.nii.gz"}]}
    (tmp_path / "mine.json").write_text(json.dumps(manifest))
    (study,) = manual_studies(TABLE, tmp_path / "mine.json", "neuromorphometrics")
    assert (study.id, study.references[0].drawn[0].values) == ("manual_x", (59, 60))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"structures": {"thalamus": [1], "putamen": [1]}}, r"\[1\] more than one meaning"),
        ({"structures": {"talamus": [1]}}, "did you mean 'thalamus'"),
        ({"structures": {"thalamus": "1"}}, "not a readable protocol"),
        ([], "not a readable protocol"),
    ],
)
def test_a_protocol_that_means_nothing_is_refused(content: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(content))
    with pytest.raises(MedvitError, match=message):
        read_protocol(tmp_path / "own.json", TABLE)
    with pytest.raises(MedvitError, match="did you mean 'freesurfer'"):
        read_protocol("freesurfr", TABLE)


def test_label_maps_without_images_are_no_cases(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(MedvitError, match="no image here has a label map"):
        manual_studies(TABLE, tmp_path)
