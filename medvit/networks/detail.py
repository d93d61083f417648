"""Any 3D network at half resolution, with an input and an output that resolve single voxels."""

from __future__ import annotations

from torch import Tensor, nn

from medvit.networks.layers.detail import DetailReadout, DetailStem


class DetailSegmenter(nn.Module):
    """A network that works at half resolution, between a stem and a readout at every voxel.

    Most of a volumetric network's operations are spent on its finest level. Here that level holds 2x2x2
    voxels a cell: a convolutional stem folds them into channels, the network works on an eighth of the
    cells, and a readout that sees the stem's map again unfolds the logits. Around a small network a training
    step on a CPU takes a third to two fifths of the time at full resolution.

    Parameters
    ----------
    network
        (B, width, D/2, H/2, W/2) to the same shape.
    in_channels
        Image channels.
    out_channels
        Classes.
    width
        Channels of the stem and of the readout, a multiple of 8.

    Notes
    -----
    The stem and the readout are those of `SegFormer3D` with ``head="detail"``, under the same names; they are
    not in any of the papers.
    """

    def __init__(self, network: nn.Module, in_channels: int, out_channels: int, width: int = 32) -> None:
        super().__init__()
        self.stem = DetailStem(in_channels, width)
        self.network = network
        self.head = DetailReadout(width, width, out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, in_channels, D, H, W), edges even, to logits (B, out_channels, D, H, W).

        Raises
        ------
        ValueError
            If an edge of the image is odd.
        """
        if image.ndim != 5 or any([n % 2 > 0 for n in image.shape[2:]]):  # noqa: C419
            raise ValueError(f"needs an image (B, C, D, H, W) with even edges, not {list(image.shape)}")
        stem = self.stem(image)
        return self.head(self.network(stem), stem)
