"""DICOM segmentations on either side: laid onto the other's grid, structures matched by name and code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.evaluation import Options, Pair, ScoredStructure, evaluate, find_pairs, measure_pair, read_regions
from medvit.evaluation.structures import matched
from medvit.metrics import dice, hd95
from medvit.studies.dicom.seg import read_segmentation
from medvit.studies.dicom_out import Algorithm, read_source, save_dicom, segmentation
from medvit.studies.labels import LabelTable, parse_label_table
from medvit.studies.study import Grid
from tests.evaluation.cohort import save
from tests.studies.dicom_out.synthetic import OBLIQUE, write_series

LIVER, SPLEEN = {"value": "10200004", "meaning": "Liver"}, {"value": "78961009", "meaning": "Spleen"}
THALAMUS = {"value": "42695009", "meaning": "Thalamus"}
OURS = [{"name": "thalamus", "paired": True, "code": THALAMUS}, {"name": "liver", "code": LIVER}]
# In another order, and one of them by another name.
THEIRS = [{"name": "Hepar", "code": LIVER}, {"name": "spleen", "code": SPLEEN},
          {"name": "Thalamus", "paired": True, "code": THALAMUS}]  # fmt: skip


def table(structures: list[dict]) -> LabelTable:
    return parse_label_table({"name": "test", "structures": structures})


class Source:
    """A series, and segmentations of it."""

    def __init__(self, folder: Path) -> None:
        self.paths, self.grid = write_series(folder / "series", (20, 16, 8), orientation=OBLIQUE)

    def labels(self, shift: int = 0) -> np.ndarray:
        """Left and right thalamus and liver, in slices 2 to 5 only."""
        labels = np.zeros(self.grid.shape, np.uint8)
        labels[2 + shift : 7, 2:7, 2:6] = 1
        labels[12 : 17 + shift, 2:7, 2:5] = 2
        labels[6:14, 9:15, 3 : 6 + min(shift, 0)] = 3
        return labels

    def write(self, path: Path, labels: np.ndarray, structures: list[dict]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        algorithm = Algorithm("test", "1", "ab" * 32)
        save_dicom(
            segmentation(labels, self.grid, read_source(self.paths), table(structures), algorithm), path
        )
        return path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def in_their_values(labels: np.ndarray) -> np.ndarray:
    return np.array([0, 3, 4, 1], np.uint8)[labels]


def test_a_segmentation_keeps_what_its_segments_are(source: Source, tmp_path: Path) -> None:
    found = read_segmentation(source.write(tmp_path / "seg.dcm", source.labels(), OURS))
    assert [(s.number, s.name, s.code.value, s.side) for s in found.segments] == [
        (1, "left thalamus", "42695009", "left"),
        (2, "right thalamus", "42695009", "right"),
        (3, "liver", "10200004", ""),
    ]
    assert min(found.label_map.shape) == 4  # frames without segments are left out


@pytest.mark.parametrize("segmented", ["prediction", "reference", "both"])
def test_scores_are_those_of_the_voxels(source: Source, tmp_path: Path, segmented: str) -> None:
    ours, theirs = source.labels(shift=1), source.labels()
    files = {
        "prediction": save(tmp_path / "p.nii.gz", ours, source.grid.affine),
        "reference": save(tmp_path / "r.nii.gz", in_their_values(theirs), source.grid.affine),
    }
    names = {"p": {"left thalamus": 1, "right thalamus": 2, "liver": 3},
             "r": {"left_Thalamus": 3, "right_Thalamus": 4, "liver": 1}}  # fmt: skip
    for stem, labels in names.items():
        (tmp_path / f"{stem}.json").write_text(json.dumps({"labels": labels}))
    if segmented != "reference":
        files["prediction"] = source.write(tmp_path / "p.dcm", ours, OURS)
    if segmented != "prediction":
        their_names = THEIRS if segmented == "both" else [{**THEIRS[0], "name": "liver"}, *THEIRS[1:]]
        files["reference"] = source.write(tmp_path / "r.dcm", in_their_values(theirs), their_names)
    scores = measure_pair(Pair("s", files["prediction"], files["reference"]), None, Options())
    found = {name.lower().replace("_", " "): values for name, values in scores.values.items()}
    for value, name in ((1, "left thalamus"), (2, "right thalamus"), (3, "liver")):
        values = found.get(name) or found["hepar"]
        assert values["dice"] == pytest.approx(dice(ours == value, theirs == value))
        steps = source.grid.affine[:3, :3]
        assert values["hd95_mm"] == pytest.approx(hd95(ours == value, theirs == value, steps), rel=1e-4)
    described = segmented == "prediction" or "Not described on both sides" in scores.notes[0]
    assert described
    assert "spleen" not in found


def test_slices_that_only_one_segmentation_has_count(source: Source, tmp_path: Path) -> None:
    ours, theirs = np.zeros((2, *source.grid.shape), np.uint8)
    ours[5:9, 5:9, 0:4] = 3
    theirs[5:9, 5:9, 2:8] = 3
    files = (source.write(tmp_path / f"{n}.dcm", m, OURS) for n, m in (("p", ours), ("r", theirs)))
    values = measure_pair(Pair("s", *files), None, Options()).values["liver"]
    assert values["dice"] == pytest.approx(2 * 2 / (4 + 6))
    assert values["volume_prediction_ml"] == pytest.approx(4 * 16 * source.grid.voxel_volume / 1000, rel=1e-4)


def test_other_voxels_are_refused(source: Source, tmp_path: Path) -> None:
    seg = source.write(tmp_path / "p.dcm", source.labels(), OURS)
    shifted = Grid(source.grid.shape, source.grid.affine + np.array([[0, 0, 0, 0.4]] + [[0] * 4] * 3))
    reference = save(tmp_path / "r.nii.gz", source.labels(), shifted.affine)
    named = tmp_path / "t.json"
    named.write_text(json.dumps({"left thalamus": 1, "right thalamus": 2, "liver": 3}))
    with pytest.raises(StudyError, match="another grid"):
        measure_pair(Pair("s", seg, reference), read_regions(named), Options())
    reference = save(tmp_path / "r.nii.gz", source.labels(), source.grid.affine)
    with pytest.raises(StudyError, match="values without names"):
        measure_pair(Pair("s", seg, reference), None, Options())
    named.write_text(json.dumps({"heart": 1}))
    with pytest.raises(StudyError, match="no structure in common"):
        measure_pair(Pair("s", seg, reference), read_regions(named), Options())


def test_a_code_that_stands_twice_tells_nothing() -> None:
    tissue = [ScoredStructure(name, (i,), "SCT 85756007 ") for i, name in enumerate("abc", 1)]
    wanted = [ScoredStructure("a", (9,), "SCT 85756007 "), ScoredStructure("d", (8,), "SCT 85756007 ")]
    assert matched(wanted, tissue) == (tissue[0], None)
    alone = [ScoredStructure("hepar", (4,), "SCT 10200004 ")]
    assert matched([ScoredStructure("liver", (1,), "SCT 10200004 ")], alone) == (alone[0],)


def test_folders_of_segmentations_and_what_is_none(source: Source, tmp_path: Path) -> None:
    for side in ("pred", "ref"):
        source.write(tmp_path / side / "case_1" / "dicom" / "seg.dcm", source.labels(), OURS)
    found = find_pairs(tmp_path / "pred", tmp_path / "ref")
    assert [p.study for p in found.pairs] == ["case_1"]
    assert evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "out").exit_code == 0
    assert "liver,both,1,1" in (tmp_path / "out" / "evaluation.csv").read_text()
    # Beside another label map of the study, the segmentation is the same once more.
    save(tmp_path / "pred" / "case_1" / "labels.nii.gz", source.labels(), source.grid.affine)
    [pair] = find_pairs(tmp_path / "pred", tmp_path / "ref").pairs
    assert pair.prediction.name == "labels.nii.gz"
    with pytest.raises(StudyError, match="not a label map that can be compared"):
        find_pairs(source.paths[0], source.paths[0])
