"""D-Former against the published form of its computation: CPU time, in one interleaved run.

    OMP_NUM_THREADS=1 python benchmarks/d_former.py [--repeats 3]

The published form, written from the paper: groups cut before the projection, scores held in full, three
output levels of which one is thrown away, and heads that move all channels to the voxels before they
normalise and project them.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medvit.networks.d_former import DFormer, GroupAttention, Head, _shuffle


class PublishedAttention(nn.Module):
    """Projection inside the groups and explicit scores; grids that need padding are not its business."""

    def __init__(self, ours: GroupAttention) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        grid = [int(n) for n in x.shape[1:4]]
        counts, members = self.ours.partition(grid)
        assert [c * m for c, m in zip(counts, members, strict=True)] == grid
        heads = self.ours.num_heads
        groups = self._cut(x, counts, members)
        n, tokens, dim = groups.shape
        query, key, value = self.ours.qkv(groups).reshape(n, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = (query * (dim // heads) ** -0.5) @ key.transpose(-2, -1)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(n, tokens, dim)
        attended = self.ours.proj(attended)
        return self.ours._ungroup(attended.unflatten(-1, (heads, -1)).transpose(1, 2), counts, members)

    def _cut(self, x: Tensor, counts: Sequence[int], members: Sequence[int]) -> Tensor:
        (a, b, c), (p, q, r) = counts, members
        if self.ours.dilated:
            x = x.reshape(-1, p, a, q, b, r, c, x.shape[-1]).permute(0, 2, 4, 6, 1, 3, 5, 7)
        else:
            x = x.reshape(-1, a, p, b, q, c, r, x.shape[-1]).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(-1, p * q * r, x.shape[-1])


class PublishedHead(nn.Module):
    """All channels to the voxels, LayerNorm there, 1x1x1 convolution."""

    def __init__(self, ours: Head) -> None:
        super().__init__()
        self.expand, self.norm, self.patch_size = ours.expand, ours.norm, ours.patch_size
        weight = ours.readout.weight
        self.conv = nn.Conv3d(weight.shape[1], weight.shape[0], 1, bias=False)
        self.conv.weight = nn.Parameter(weight[:, :, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(_shuffle(self.expand(x), self.patch_size)).permute(0, 4, 1, 2, 3))


class PublishedDFormer(nn.Module):
    """The same weights, computed as published."""

    def __init__(self, ours: DFormer) -> None:
        super().__init__()
        self.network = copy.deepcopy(ours)
        for stage in (*self.network.encoder, *self.network.decoder):
            for block in stage.blocks:
                block.attention = PublishedAttention(block.attention)
        self.network.heads = nn.ModuleList(PublishedHead(head) for head in self.network.heads)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.network.levels(image)[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=3, default=(64, 128, 128))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours = DFormer().eval()
    published = PublishedDFormer(ours).eval()
    image = torch.randn(1, 1, *arguments.size)
    seconds: dict[str, list[float]] = {"published form": [], "medvit": []}
    outputs = {}
    with torch.inference_mode():
        for _ in range(arguments.repeats):
            for name, network in (("published form", published), ("medvit", ours)):
                start = time.process_time()
                outputs[name] = network(image)
                seconds[name].append(time.process_time() - start)
    difference = (outputs["published form"][0] - outputs["medvit"]).abs().max() / outputs["medvit"].std()
    best = {name: min(values) for name, values in seconds.items()}
    print("| form | CPU s, best | ratio |\n| --- | --- | --- |")
    for name, value in best.items():
        print(f"| {name} | {value:.2f} | {best['published form'] / value:.2f} |")
    print(f"\nlargest difference {difference:.1e} of the output's standard deviation")


if __name__ == "__main__":
    main()
