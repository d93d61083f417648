"""RAT region by region against the published dense form: CPU time in one interleaved run, and peak memory.

OMP_NUM_THREADS=1 python benchmarks/rat.py --size 256
OMP_NUM_THREADS=1 python benchmarks/rat.py --size 512 --forms medvit
"""

from __future__ import annotations

import argparse
import copy
import resource
import time

import torch
from torch import Tensor, nn

from medvit.networks.rat import RAT, RegionAttention


def painted_regions(size: int, count: int) -> Tensor:
    """Discs of random size and place, large ones first, and a rest: shaped like a map from SAM."""
    generator = torch.Generator().manual_seed(0)
    radii = (torch.rand(count - 1, generator=generator) ** 3 * 0.3 + 0.02).sort(descending=True).values
    centres = torch.rand(count - 1, 2, generator=generator)
    axis = torch.arange(size) / size
    regions = torch.full((size, size), count)
    for label, (radius, (row, column)) in enumerate(zip(radii, centres, strict=True), 1):
        regions[(axis[:, None] - row) ** 2 + (axis - column) ** 2 < radius**2] = label
    return regions[None]


class PublishedRegionAttention(nn.Module):
    """All scores of all heads, an additive mask of -1000 between regions, softmax over every token."""

    def __init__(self, ours: RegionAttention) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.ours.qkv(x).flatten(1, 2).unflatten(-1, (3, self.ours.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * self.ours.scale + mask[:, None]).softmax(-1)
        return self.ours.proj((weights @ value).transpose(1, 2).reshape(x.shape))


class PublishedRAT(nn.Module):
    """The same weights, computed as published."""

    def __init__(self, ours: RAT) -> None:
        super().__init__()
        self.network = copy.deepcopy(ours)
        for block in self.network.blocks:
            for layer in block.layers:
                layer.region_attention = PublishedRegionAttention(layer.region_attention)

    def forward(self, image: Tensor, regions: Tensor) -> Tensor:
        stride = self.network.stride
        labels = regions[:, ::stride, ::stride].flatten(1)
        mask = torch.full((len(labels), labels.shape[1], labels.shape[1]), -1000.0)
        for label in range(int(labels.max()) + 1):
            inside = (labels == label).float()
            mask += 1000.0 * inside[:, :, None] * inside[:, None]
        return image + self.network._residual(image, mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--regions", type=int, default=38)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=["published", "medvit"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours = RAT().eval()
    for name, parameter in ours.named_parameters():
        if "scale" in name:  # zero at the start, which would hide the map
            nn.init.normal_(parameter, std=0.3)
    forms: dict[str, nn.Module] = {"medvit": ours}
    if "published" in arguments.forms:
        forms = {"published": PublishedRAT(ours), **forms}
    image = torch.randn(1, 1, arguments.size, arguments.size)
    regions = painted_regions(arguments.size, arguments.regions)
    counts = regions[:, ::4, ::4].unique(return_counts=True)[1]
    share = float((counts**2).sum() / counts.sum() ** 2)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    outputs = {}
    with torch.inference_mode():
        for _ in range(arguments.repeats):
            for name, network in forms.items():
                start = time.process_time()
                outputs[name] = network(image, regions)
                seconds[name].append(time.process_time() - start)
    print(f"{arguments.size} x {arguments.size}, {len(counts)} regions, share of token pairs {share:.3f}\n")
    print("| form | CPU s, best |\n| --- | --- |")
    for name, values in seconds.items():
        print(f"| {name} | {min(values):.2f} |")
    if len(forms) == 2:
        ratio = min(seconds["published"]) / min(seconds["medvit"])
        difference = (outputs["published"] - outputs["medvit"]).abs().max() / outputs["medvit"].std()
        print(f"\nratio {ratio:.1f}, largest difference {difference:.1e} of the output's standard deviation")
    print(f"\npeak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
