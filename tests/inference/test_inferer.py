"""The stream gives what MONAI's sliding window gives, in the image's own grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from torch import nn

from medvit.errors import MedvitError, StudyError
from medvit.inference import Execution, Flips, StreamingWindowInferer
from medvit.inference.windows import plan_windows
from tests.inference.cases import GRIDS, Thresholds, study

CASES = [
    ((40, 37, 50), (16, 16, 16), 0.5),
    ((20, 60, 33), (24, 24, 24), 0.25),
    ((10, 60, 33), (24, 20, 20), (0.1, 0.6, 0.7)),
    ((33, 20, 60), (-1, 16, 16), 0.0),
    ((23, 16, 16), (8, 16, 16), 0.9),
]


def network(classes: int = 4, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, classes, 3, padding=1)
    ).eval()


@torch.no_grad()
def stock_logits(
    image: torch.Tensor, net: nn.Module, roi: tuple, overlap: Any, **kwargs: Any
) -> torch.Tensor:
    return SlidingWindowInferer(roi, 1, overlap, mode="gaussian", **kwargs)(image, net)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize(("size", "roi", "overlap"), CASES)
def test_labels_are_those_of_monai(size: tuple, roi: tuple, overlap: Any, axis: int | None) -> None:
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    labels = StreamingWindowInferer(roi, overlap, axis=axis)(image, network())
    expected = stock_logits(image, network(), roi, overlap).argmax(1, keepdim=True)
    assert labels.dtype == torch.uint8
    assert labels.shape == expected.shape
    assert (labels != expected).float().mean() <= (0 if axis == 0 else 1e-5)


def test_the_batch_of_windows_does_not_matter() -> None:
    image = torch.randn(1, 1, 30, 40, 26, generator=torch.Generator().manual_seed(1))
    one, five = (StreamingWindowInferer((16, 16, 16), 0.5, batch)(image, network()) for batch in (1, 5))
    # Convolutions of another batch size round differently: only near-ties may fall the other way.
    assert (one != five).float().mean() < 1e-4


def test_two_dimensional_images_and_reflected_borders() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(2, 3, 3, padding=1)
    image = torch.randn(1, 2, 40, 21)
    expected = stock_logits(image, net, (24, 24), 0.5, padding_mode="reflect").argmax(1, keepdim=True)
    labels = StreamingWindowInferer((24, 24), 0.5, padding_mode="reflect")(image, net)
    assert torch.equal(labels.long(), expected)


def test_regions_paint_in_their_order() -> None:
    image = torch.randn(1, 2, 20, 24, 28, generator=torch.Generator().manual_seed(2))
    net = network(3, 2)
    tumour_core, whole_tumour, enhancing = (stock_logits(image, net, (16, 16, 16), 0.5)[0] > 0).unbind()
    expected = torch.zeros(image.shape[2:], dtype=torch.uint8)
    for region, label in ((whole_tumour, 2), (tumour_core, 1), (enhancing, 4)):
        expected[region] = label
    inferer = StreamingWindowInferer((16, 16, 16), 0.5, region_labels=(1, 2, 4), region_order=(1, 0, 2))
    assert torch.equal(inferer(image, net)[0, 0], expected)
    with pytest.raises(ValueError, match="more channels"):
        StreamingWindowInferer((16, 16, 16), region_labels=(1, 2))(image, net)


def test_maps_equal_their_definition() -> None:
    image = torch.randn(1, 1, 18, 20, 33, generator=torch.Generator().manual_seed(3))
    softmax = (stock_logits(image, network(), (16, 16, 16), 0.5)[0] * 1.0).softmax(0)
    entropy = -(softmax * softmax.log()).sum(0) / np.log(4)
    found = StreamingWindowInferer((16, 16, 16), maps=("entropy", "probability:2"))(image, network())
    assert set(found) == {"labels", "entropy", "probability:2"}
    torch.testing.assert_close(found["entropy"][0, 0], entropy, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["probability:2"][0, 0], softmax[2], atol=1e-5, rtol=0)


def test_sigmoid_maps_equal_their_definition() -> None:
    image = torch.randn(1, 1, 18, 20, 33, generator=torch.Generator().manual_seed(3))
    p = stock_logits(image, network(2), (16, 16, 16), 0.5)[0].double().sigmoid()
    bits = (-(p * p.log2() + (1 - p) * (1 - p).log2())).amax(0)
    inferer = StreamingWindowInferer((16, 16, 16), region_labels=(1, 2), maps=("entropy", "probability:1"))
    found = inferer(image, network(2))
    torch.testing.assert_close(found["entropy"][0, 0].double(), bits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["probability:1"][0, 0].double(), p[1], atol=1e-5, rtol=0)


def test_flips_swap_lateral_classes() -> None:
    image = torch.randn(1, 1, 20, 16, 24, generator=torch.Generator().manual_seed(4))
    net = network(3)

    def mirrored(windows: torch.Tensor) -> torch.Tensor:
        return (net(windows) + net(windows.flip(2)).flip(2)[:, [0, 2, 1]]) / 2

    inferer = StreamingWindowInferer(
        (16, 16, 16), flips=Flips(axes=[0], lateral_axis=0, lateral_pairs=[(1, 2)])
    )
    assert torch.equal(inferer(image, net), StreamingWindowInferer((16, 16, 16))(image, mirrored))
    assert inferer.report.forward_passes == 2 * inferer.report.windows


def test_all_flips_together() -> None:
    assert Flips(axes=(0, 2)).combinations() == [(), (0,), (2,), (0, 2)]


def test_ensemble_averages_and_measures_disagreement() -> None:
    image = torch.randn(1, 1, 20, 16, 24, generator=torch.Generator().manual_seed(5))
    first, second = network(3), Thresholds(3)
    inferer = StreamingWindowInferer((20, 16, 24), maps=("disagreement",))
    found = inferer(image, nn.ModuleList([first, second]))
    with torch.no_grad():
        members = torch.stack([first(image)[0], second(image)[0]])
    winner = members.mean(0).argmax(0)
    share = (members.argmax(1) != winner).float().mean(0)
    assert torch.equal(found["labels"][0, 0].long(), winner)
    torch.testing.assert_close(found["disagreement"][0, 0], share)
    assert 0 < share.mean() < 1


def test_constant_windows_are_skipped_and_become_background() -> None:
    image = study(GRIDS["axial"])
    image = MetaTensor(torch.cat([torch.zeros(1, 70, 44, 36), image.as_tensor()], dim=1))[None]
    plain, skipping = (StreamingWindowInferer((16, 16, 16), skip=rule) for rule in (None, "constant"))
    assert torch.equal(plain(image, Thresholds()), skipping(image, Thresholds()))
    assert plain.report.skipped == 0
    assert 0 < skipping.report.skipped < skipping.report.windows
    assert skipping.report.forward_passes == skipping.report.windows - skipping.report.skipped


def test_an_image_of_nothing_but_skipped_windows_is_background() -> None:
    inferer = StreamingWindowInferer((16, 16, 16), skip="constant", maps=("entropy",))
    found = inferer(torch.zeros(1, 1, 20, 20, 20), network())
    assert not found["labels"].any()
    assert not found["entropy"].any()


class FailsBeyond(nn.Module):
    """Runs out of memory for more than `limit` windows, and for its first `failures` single ones."""

    def __init__(self, limit: int, failures: int) -> None:
        super().__init__()
        self.network, self.limit, self.failures = network(), limit, failures

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        if len(windows) == 1 and self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("out of memory")
        return self.network(windows)


def test_out_of_memory_steps_down_and_says_so() -> None:
    image = torch.randn(1, 1, 30, 32, 24, generator=torch.Generator().manual_seed(6))
    expected = StreamingWindowInferer((16, 16, 16))(image, network())
    inferer = StreamingWindowInferer((16, 16, 16), sw_batch_size=5)
    assert torch.equal(inferer(image, FailsBeyond(limit=1, failures=1)), expected)
    assert inferer.report.fallbacks == [
        "out of memory with 5 windows at once: 2 at once",
        "out of memory with 2 windows at once: 1 at once",
        "out of memory with one window: the blended logits are held on the host",
    ]
    with pytest.raises(MedvitError, match="smaller roi_size"):
        inferer(image, FailsBeyond(limit=1, failures=9))


def test_refuses_what_it_cannot_answer() -> None:
    inferer = StreamingWindowInferer((16, 16, 16))
    image = torch.zeros(1, 1, 20, 20, 20)
    image[0, 0, 3, 4, 5] = float("nan")
    with pytest.raises(StudyError, match="NaN"):
        inferer(image, network())
    with pytest.raises(MedvitError, match="network gives NaN"):
        inferer(torch.zeros(1, 1, 20, 20, 20), lambda windows: windows / 0)
    with pytest.raises(ValueError, match="of their size"):
        inferer(torch.zeros(1, 1, 20, 20, 20), nn.Conv3d(1, 2, 3))
    with pytest.raises(ValueError, match="no map"):
        StreamingWindowInferer(16, maps=("variance",))
    with pytest.raises(ValueError, match="overlap"):
        plan_windows((20, 20, 20), 16, 1.0)


def test_leaves_network_and_threads_as_they_were() -> None:
    net, threads = network().train(), torch.get_num_threads()
    labels = StreamingWindowInferer((16, 16, 16), execution=Execution(threads=1))(
        torch.ones(1, 1, 16, 16, 16), net
    )
    assert net.training
    assert torch.get_num_threads() == threads
    assert not labels.is_inference()


def test_runs_from_a_bundle_config_in_an_evaluator() -> None:
    config = {
        "inferer": {
            "_target_": "medvit.inference.StreamingWindowInferer",
            "roi_size": [16, 16, 16],
            "overlap": 0.5,
            "flips": {"_target_": "medvit.inference.Flips", "axes": [1]},
        }
    }
    inferer = ConfigParser(config).get_parsed_content("inferer")
    loader = DataLoader(Dataset([{"image": study(GRIDS["axial"])}]), batch_size=1)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=Thresholds(),
        inferer=inferer,
        decollate=True,
    )
    evaluator.run()
    prediction = evaluator.state.output[0]["pred"]
    assert prediction.shape == (1, 40, 44, 36)
    assert np.allclose(prediction.affine, GRIDS["axial"].affine)
    assert len(prediction.unique()) > 1
