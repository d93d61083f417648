"""Channels that only guide a network are not in its output."""

from __future__ import annotations

import torch

from medvit.networks import HAT, GuidedRestorer


def test_the_image_alone_comes_out() -> None:
    torch.manual_seed(0)
    settings = {"embed_dim": 24, "depths": (1,), "num_heads": (2,), "window_size": 8, "squeeze_factor": 8}
    network = HAT(2, 1, compress_ratio=4, residual=True, **settings).eval()  # type: ignore[arg-type]
    image = torch.rand(2, 2, 16, 24)
    with torch.no_grad():
        restored = GuidedRestorer(network)(image)
        torch.testing.assert_close(restored, network(image)[:, :1])
        moved = image.clone()
        moved[:, 1] += 0.5
        assert not torch.allclose(GuidedRestorer(network)(moved), restored)
