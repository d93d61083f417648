"""Studies on their way through a bundle: a failure belongs to its study, and the next one follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import StudyError
from medvit.inference.engine import InferenceReport
from medvit.runs.dataset import StudyDataset, study_loader
from medvit.runs.pipeline import StudyPipeline
from medvit.studies import LoadedStudy, Study, find_studies


@pytest.fixture
def dataset(tmp_path: Path) -> StudyDataset:
    """Three studies, of which the second cannot be read and the third is refused."""
    for name in "abc":
        image = np.full((4, 5, 6), ord(name), np.float32)
        nib.save(nib.Nifti1Image(image, np.diag([1.0, 1, 2, 1])), tmp_path / f"{name}.nii")
    (tmp_path / "b.nii").write_bytes((tmp_path / "b.nii").read_bytes()[:400])

    def gate(study: Study) -> Study:
        if study.id == "c":
            raise StudyError("scope", "is a hand", path=study.path, do="give a head")
        return study

    def halved(data: dict[str, Any]) -> dict[str, Any]:
        return {"image": data["image"].image / 2}

    return StudyDataset(find_studies(tmp_path), halved, gate)


def test_a_failure_is_noted_in_its_item(dataset: StudyDataset) -> None:
    good, broken, refused = items = list(study_loader(dataset))
    assert len(dataset) == 3 and [item.study.id for item in items] == ["a", "b", "c"]
    assert good.outcome.status == "done" and isinstance(good.study, LoadedStudy)
    assert good.image is not None and good.image.unique().tolist() == [ord("a") / 2]
    assert (broken.image, broken.outcome.status, broken.outcome.code) == (None, "failed", "nifti-truncated")
    assert (refused.image, refused.outcome.code, refused.outcome.stage) == (None, "scope", "read")


class Doubling:
    """Stands for an inferer; its report says what it saw."""

    report = InferenceReport()

    def __call__(self, image: MetaTensor, network: torch.nn.Module) -> MetaTensor:
        return network(image) * 2


class Kept:
    """Stands for a writer."""

    def __init__(self) -> None:
        self.written: dict[str, float] = {}

    def write(self, study: Study, prediction: MetaTensor, outcome: Any) -> None:
        self.written[study.id] = float(prediction.mean())


def pipeline(network: torch.nn.Module, writer: Kept, **others: Any) -> StudyPipeline:
    return StudyPipeline(torch.device("cpu"), network, Doubling(), writer=writer, **others)  # type: ignore[arg-type]


def test_results_are_post_processed_and_written(dataset: StudyDataset) -> None:
    seen: list[set[str]] = []

    def minus_one(data: dict[str, Any]) -> dict[str, Any]:
        seen.append(set(data))
        return data | {"pred": data["pred"] - 1}

    writer = Kept()
    run = pipeline(torch.nn.Identity(), writer, postprocessing=minus_one)
    for item in study_loader(dataset):
        run.finish(item, run.infer(item))
    assert writer.written == {"a": ord("a") - 1}
    assert seen == [{"pred", "image", "source"}]


def test_a_network_that_fails_costs_its_study_alone(dataset: StudyDataset) -> None:
    class Broken(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of breath")

    writer = Kept()
    run = pipeline(Broken(), writer)
    item = dataset[0]
    run.finish(item, run.infer(item))
    assert (item.outcome.status, item.outcome.stage) == ("failed", "infer")
    assert item.outcome.error == "RuntimeError: out of breath" and writer.written == {}
    assert set(item.outcome.seconds) == {"read", "preprocess", "infer"}


def test_a_writer_that_fails_is_noted(dataset: StudyDataset) -> None:
    class Full(Kept):
        def write(self, study: Study, prediction: MetaTensor, outcome: Any) -> None:
            raise OSError(28, "No space left on device")

    run, item = pipeline(torch.nn.Identity(), Full()), dataset[0]
    run.finish(item, run.infer(item))
    assert (item.outcome.status, item.outcome.stage) == ("failed", "write")
    assert "No space left" in item.outcome.error
