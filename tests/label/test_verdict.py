"""The verdict on a result in memory is that of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medvit.bundles import Bundle
from medvit.bundles.segmentation import Result
from medvit.label.verdict import verdict_of
from medvit.studies.in_memory import study_in_memory
from tests.label.phantoms import TABLE, make_bundle, make_restorer
from tests.reports.phantom import head


def test_a_label_map_is_judged_by_its_structures(tmp_path: Path) -> None:
    image, labels, grid = head()
    bundle = Bundle(make_bundle(tmp_path / "brain", state={}))
    study = study_in_memory(image, grid.affine, "head")
    study = replace(study, series=(replace(study.series[0], facts={"modality": "MR"}),))
    sound = verdict_of(Result(study, labels, grid, bundle), TABLE)
    assert (sound.light, sound.finding) == ("green", "")
    empty = verdict_of(Result(study, np.zeros_like(labels), grid, bundle), TABLE)
    assert empty.light == "red" and empty.finding


def test_a_restoration_is_judged_by_what_it_took(tmp_path: Path) -> None:
    image, _, grid = head()
    noisy = image + np.random.default_rng(1).normal(0, 6, image.shape).astype(np.float32)
    bundle = Bundle(make_restorer(tmp_path / "restorer"))
    study = study_in_memory(noisy, grid.affine, "head")
    study = replace(study, series=(replace(study.series[0], facts={"modality": "MR"}),))
    assert verdict_of(Result(study, image, grid, bundle), None).light != "red"
    lost = verdict_of(Result(study, np.zeros_like(image), grid, bundle), None)
    assert lost.light == "red" and lost.finding
