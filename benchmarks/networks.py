"""Every network against the published form of its computation: cost, time and memory, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/networks.py [--only SegFormer3D ...] [--rounds 3] [--large]

Both forms have the same weights and input and are run in turn; times are CPU seconds of the process, ratios
medians over the rounds. Peak memory is what the first forward needs over what was resident before it, with
freed pages handed back first; with ``--rounds 0`` that first forward is also the one that is timed. GFLOP
are counted by torch (2 a multiply-add, matrix products and convolutions alone) on our form with attention
written out.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from _measure import interleaved, peak_of, ratio
from d_former import PublishedDFormer
from monai.networks.nets import SwinUNETR as StockSwinUNETR
from published_forms.attention import position_on_scores, unfused_attention
from published_forms.decoders import decode_upsampled, fuse_joined
from published_forms.recurrences import mlstm_matrix, scan_loop
from rat import PublishedRAT, painted_regions
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medvit import networks
from medvit.networks import mambaclinix, r2t_mil, segformer3d, xlstm_unet
from medvit.networks.layers import residual_unet
from medvit.networks.layers.scan import selective_scan

UNFUSED = (F, "scaled_dot_product_attention", unfused_attention)
UPSAMPLED = (residual_unet.Decoder, "forward", decode_upsampled)


@dataclass
class Case:
    """A network and how its published form differs.

    `substitutes` stand in for (owner, name) while the published form runs; `other` makes it where it is a
    module of its own. `paper` is what the paper or the authors' code states, parameters and operations.
    """

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    paper: str = "none stated"
    substitutes: tuple[tuple[Any, str, Any], ...] = (UNFUSED,)
    other: Callable[[nn.Module], nn.Module] | None = None
    target: float | None = None
    regions: int = 0
    large: bool = False
    published: bool = True

    def inputs(self) -> tuple[Tensor, ...]:
        """Seeded input, with a region map where the network wants one."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(self.size, generator=generator)
        return (image, painted_regions(self.size[-1], self.regions)) if self.regions else (image,)


class Scan(nn.Module):
    """A selective scan of 64 channels and 16 states, as `forward` of a module."""

    scan: Callable[..., Any] = staticmethod(selective_scan)

    def forward(self, u: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        rates = -torch.arange(1.0, 17).repeat(u.shape[1], 1)
        b, c = torch.randn(2, u.shape[0], 16, u.shape[2], generator=generator)
        return self.scan(u, 0.1 * u - 3, rates, b, c, delta_softplus=True)


class MLSTM(nn.Module):
    """The mLSTM on 4 heads of 128 channels, as `forward` of a module."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.unbind(0)
        return xlstm_unet.mlstm(q, k, v, q[..., 0], 4 + k[..., 0])


def stock_swin(ours: nn.Module) -> nn.Module:
    """MONAI's own class with its defaults."""
    embed = ours.swinViT.patch_embed.proj
    stock = StockSwinUNETR(
        embed.in_channels, ours.out.conv.conv.out_channels, feature_size=embed.out_channels
    )
    stock.load_state_dict(ours.state_dict())
    return stock


def rat_with_scales() -> nn.Module:
    """A RAT whose layer scales, zero at the start, let the region map be heard."""
    network = networks.RAT()
    for name, parameter in network.named_parameters():
        if "scale" in name:
            nn.init.normal_(parameter, std=0.3)
    return network


def cases() -> list[Case]:
    """In the order of the table."""
    swin = [
        Case(
            f"SwinUNETR {width}", partial(networks.SwinUNETR, 1, 14, feature_size=width), (1, 1, 96, 96, 96),
            paper, (), stock_swin, target, large=width == 48,
        )
        for width, paper, target in (
            (12, "4.0 M", 3.0), (24, "15.7 M", None), (48, "62.1 M, 394.8 GFLOP", 1.7),
        )
    ]  # fmt: skip
    joined = (segformer3d.Fusion, "forward", fuse_joined)
    looped = (mambaclinix, "selective_scan", scan_loop)
    matrix = (xlstm_unet, "mlstm", mlstm_matrix)
    on_scores = (r2t_mil.Attention, "forward", position_on_scores)
    rat = partial(Case, build=rat_with_scales, other=PublishedRAT, regions=38)
    return [
        Case(
            "SegFormer3D", networks.SegFormer3D, (1, 4, 128, 128, 128), "4.51 M, 17.5 GFLOP at 128^3",
            (UNFUSED, joined), target=1.8,
        ),
        *swin,
        Case("TransUNet", networks.TransUNet, (1, 1, 224, 224)),
        Case("ParaTransCNN", partial(networks.ParaTransCNN, 1), (1, 1, 224, 224), large=True),
        Case(
            "DFormer", networks.DFormer, (1, 1, 64, 128, 128), "44.26 M, 54.46 GFLOP",
            (), PublishedDFormer, 1.7,
        ),
        rat("RAT 256", size=(1, 1, 256, 256), substitutes=(), target=5.0),
        rat("RAT 512", size=(1, 1, 512, 512), substitutes=(), published=False, large=True),
        Case(
            "MambaClinix", partial(networks.MambaClinix, 1, 14), (1, 1, 64, 64, 64),
            substitutes=(looped, UPSAMPLED),
        ),
        Case(
            "selective scan", Scan, (1, 64, 32768), "-",
            ((Scan, "scan", staticmethod(scan_loop)),), target=7.0,
        ),
        Case(
            "XLSTMUNet enc 2D", partial(
                networks.XLSTMUNet, 2, 1, 14, variant="enc", strides=(1, 2, 2, 2, 2, 2, 2)
            ), (1, 1, 192, 192), substitutes=(matrix, UPSAMPLED),
        ),
        Case("mLSTM", MLSTM, (3, 1, 4, 3360, 128), "-", (matrix,), target=20.0),
        Case(
            "R2TMIL", partial(networks.R2TMIL, 1024, 2), (1, 4000, 1024), substitutes=(UNFUSED, on_scores)
        ),
    ]  # fmt: skip


@contextmanager
def substituted(substitutes: tuple[tuple[Any, str, Any], ...]) -> Iterator[None]:
    """Other functions in place of (owner, name)."""
    with ExitStack() as stack:
        for owner, name, function in substitutes:
            stack.enter_context(patch.object(owner, name, function))
        yield


def gflop(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Operations of one forward, in thousands of millions; without numbers where the network allows it."""
    if len(inputs) == 1:
        network, inputs = copy.deepcopy(network).to("meta"), (inputs[0].to("meta"),)
    with FlopCounterMode(display=False) as counter, substituted((UNFUSED,)):
        network(*inputs)
    return counter.get_total_flops() / 1e9


def first(output: Any) -> Tensor:
    """The full-size output."""
    return output if isinstance(output, Tensor) else output[0]


def remember_peak(peaks: dict[str, float], name: str, run: Callable[[], Tensor]) -> Tensor:
    """What `run` gives; the MB that it needs over what is resident go into `peaks`."""
    output: list[Tensor] = []
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    peaks[name] = peak_of(lambda: output.append(run()))
    return output[0]


def measure(case: Case, rounds: int) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    ours = case.build().eval()
    inputs = case.inputs()
    other = ours if case.other is None else case.other(ours).eval()

    def published() -> Tensor:
        with substituted(case.substitutes):
            return first(other(*inputs))

    runs: dict[str, Callable[[], Tensor]] = {"medvit": lambda: first(ours(*inputs))}
    if case.published:
        runs["published"] = published
    with torch.no_grad():
        cost = gflop(ours, inputs) if case.published and any(True for _ in ours.parameters()) else 0.0
        peaks: dict[str, float] = {}
        watched = {name: partial(remember_peak, peaks, name, run) for name, run in runs.items()}
        times, outputs = interleaved(1, watched)
        if rounds:
            times, outputs = interleaved(rounds, runs)
    count = sum(p.numel() for p in ours.parameters()) / 1e6
    best = {name: min(values) for name, values in times.items()}
    columns = [
        case.name,
        " x ".join(map(str, case.size)),
        f"{count:.2f} M, {cost:.1f}" if count and cost else f"{count:.2f} M" if count else "-",
        case.paper,
    ]
    if case.published:
        speedup = 1 / ratio(times, "medvit", "published")
        difference = (outputs["medvit"] - outputs["published"]).abs().max() / outputs["published"].std()
        columns += [
            f"{best['published']:.2f} / {best['medvit']:.2f}",
            f"{speedup:.2f}",
            f"{case.target:g}" if case.target else "",
            f"{peaks['published']:.0f} / {peaks['medvit']:.0f}",
            f"{float(difference):.0e}",
        ]
    else:
        columns += [f"- / {best['medvit']:.2f}", "", "", f"- / {peaks['medvit']:.0f}", ""]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Print machine, versions and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of cases, or their beginnings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="the cases of a minute and more, too")
    arguments = parser.parse_args()
    chosen = [
        case
        for case in cases()
        if (any(case.name.startswith(name) for name in arguments.only) if arguments.only else not case.large)
        or (arguments.large and not arguments.only)
    ]
    import monai

    print(f"torch {torch.__version__}, MONAI {monai.__version__}, Python {platform.python_version()}, "
          f"{torch.get_num_threads()} thread(s)\n")  # fmt: skip
    titles = ["network", "input", "parameters, GFLOP", "paper", "CPU s, published / ours", "ratio", "target",
              "peak MB, published / ours", "largest difference / std"]  # fmt: skip
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for case in chosen:
        print(measure(case, arguments.rounds))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
