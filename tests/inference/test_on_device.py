"""What the engine asks of a device lies there, and no value of it is read.

Torch's device without memory, ``meta``, shows it: nothing is computed there, and a value that is read back, a
copy to the host, and an operator on tensors of two devices are errors.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medvit.inference import Flips, RestorationInferer, SliceInferer, StreamingWindowInferer
from medvit.inference.engine import WindowEngine
from medvit.inference.stream import SlabStream
from tests.inference.cases import GRIDS

Conv = type[nn.Conv2d] | type[nn.Conv3d]
INFERERS: dict[str, tuple[Callable[[], WindowEngine], Conv]] = {
    "volumes": (
        lambda: StreamingWindowInferer((16, 16, 16), 0.5, 4, flips=Flips((0,), 0, [(1, 2)])),
        nn.Conv3d,
    ),
    "maps": (
        lambda: StreamingWindowInferer(
            (16, 16, 16), maps=("entropy", "probability:2", "disagreement"), flips=Flips((1,))
        ),
        nn.Conv3d,
    ),
    "regions": (lambda: StreamingWindowInferer((16, 16, 16), region_labels=(1, 2, 4, 5, 6)), nn.Conv3d),
    "slices": (lambda: SliceInferer((16, 16)), nn.Conv2d),
    "restoration": (lambda: RestorationInferer((16, 16, 16)), nn.Conv3d),
}


@pytest.mark.parametrize("target", [None, "axial", "left_handed", "permuted"])
@pytest.mark.parametrize("name", INFERERS)
def test_an_inference_stays_on_the_device(
    name: str, target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one question of an inference, after its last window.
    monkeypatch.setattr(SlabStream, "_refuse_infinite", lambda *_: None)
    make, conv = INFERERS[name]
    inferer, grid = make(), GRIDS[target] if target else None
    image = MetaTensor(torch.empty(1, 40, 44, 36, device="meta"), affine=GRIDS["axial"].affine)
    found = inferer.run(image, conv(1, 5, 3, padding=1, device="meta"), grid)
    shape = grid.shape if grid else (40, 44, 36)
    assert {result.shape[-3:] for result in found.values()} == {shape}
    assert {result.device.type for result in found.values()} == {"meta"}
    assert inferer.report.windows > 4


def test_the_device_without_memory_would_show_a_read() -> None:
    def reads(windows: torch.Tensor) -> torch.Tensor:
        return windows if windows.mean() > 0 else -windows

    with pytest.raises(RuntimeError, match="meta"):
        StreamingWindowInferer((16, 16, 16)).run(torch.empty(1, 20, 20, 20, device="meta"), reads, None)
