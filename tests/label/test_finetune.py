"""Training on annotated studies, without a server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medvit.bundles import Bundle
from medvit.label.finetuning import Annotated, FinetuningSchedule, finetune, measure
from medvit.label.serving import ServedBundle
from medvit.label.versions import Versions
from tests.label.phantoms import make_bundle, steps, write_cases

CHANNELS = {"0": "background", "1": "a", "2": "b", "3": "c"}


def prepared(tmp_path: Path) -> tuple[ServedBundle, list[Annotated]]:
    # Every class is found 0.7 too high in intensity, so that each label is taken for the one below.
    root = make_bundle(tmp_path / "low", table="", channel_def=CHANNELS, state=steps(4, shift=0.7))
    served = ServedBundle(Bundle(root), Versions(tmp_path / "versions"))
    evaluator = served.evaluator(served.bundle(), {})
    annotated = []
    for name, truth in write_cases(tmp_path / "studies").items():
        item = evaluator.data_loader.dataset.prepare(served.study(tmp_path / "studies" / f"{name}.nii.gz"))
        assert item.image is not None
        # The image is its own label map, in whatever axes it was prepared.
        label = torch.as_tensor(item.image.numpy())
        annotated.append(Annotated(item.image, label, truth))
    return served, annotated


def test_training_learns_and_the_served_network_stays(tmp_path: Path) -> None:
    served, annotated = prepared(tmp_path)
    image = tmp_path / "studies" / "ras.nii.gz"
    untrained = served.predict(image).voxels
    evaluator = served.new_evaluator(served.bundle(), {})
    schedule = FinetuningSchedule(max_epochs=12, patches=2, learning_rate=0.3)
    before, best = finetune(evaluator, annotated[1:], annotated[:1], 4, schedule)
    assert before == 0
    assert best is not None and best > 0.5
    assert measure(evaluator, annotated[:1], 4) == best
    assert not evaluator.network.training
    np.testing.assert_array_equal(served.predict(image).voxels, untrained)


def test_without_held_out_studies_nothing_is_measured(tmp_path: Path) -> None:
    served, annotated = prepared(tmp_path)
    evaluator = served.new_evaluator(served.bundle(), {})
    start = {k: v.clone() for k, v in evaluator.network.state_dict().items()}
    assert finetune(evaluator, annotated[:1], [], 4, FinetuningSchedule(max_epochs=1)) == (None, None)
    assert any((v != start[k]).any() for k, v in evaluator.network.state_dict().items())
