"""Left and right structures from a segmenter that predicts structure and side separately."""

from typing import Any

import torch
from torch import Tensor, nn

from medvit.studies.labels import load_label_table


class LateralSegmenter(nn.Module):
    """Logits of every structure of a label table, with left and right separate.

    A structure looks alike on both sides, and its place in the head shows the side. The network inside
    therefore predicts background, each structure once, and one channel for the side; the logit of "left x" is
    that of the structure plus log sigmoid(-side), that of "right x" plus log sigmoid(side). The softmax of
    the result is exactly p(structure) p(side).

    The logits are sums of fewer maps, its terms (see `medvit.inference.terms`), which an inferer blends in
    their place.

    Parameters
    ----------
    network
        Gives (B, structures + 2, ...): background, the unsided structures in the table's order, the side.
    table
        Name of a label table, or the table itself in its JSON form.
    """

    channel_of: Tensor
    side_of: Tensor

    def __init__(self, network: nn.Module, table: str | dict[str, Any]) -> None:
        super().__init__()
        self.network, self.table = network, table
        structures = load_label_table(table).structures
        names = list(dict.fromkeys(s.unsided_name for s in structures))
        channels = [0] + [names.index(s.unsided_name) + 1 for s in structures]
        signs = [0.0] + [{"left": -1.0, "right": 1.0, "": 0.0}[s.side] for s in structures]
        self.register_buffer("channel_of", torch.tensor(channels), persistent=False)
        self.register_buffer("side_of", torch.tensor([int(sign) % 3 for sign in signs]), persistent=False)
        # Kept on the host, so that neither a device nor an exporter has to be queried.
        self.needed = max(channels) + 2
        self.sides = [(value, sign) for value, sign in enumerate(signs) if sign]
        #: For each class the indices of the terms that add up to its logit: those of the sides come first.
        self.class_terms = tuple(
            (2 + channel, *((int(sign > 0),) if sign else ()))
            for channel, sign in zip(channels, signs, strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, C, ...) to logits (B, 1 + structures of the table, ...)."""
        channels = self._channels(image)
        logits = channels.index_select(1, self.channel_of)
        log_left, log_right = _log_sigmoid(-channels[:, -1]), _log_sigmoid(channels[:, -1])
        if not torch.jit.is_scripting() and _in_one(logits):
            # Few operators, each over all classes: an engine copies all of them for each that it changes.
            sides = torch.stack([torch.zeros_like(log_left), log_right, log_left], 1)
            return logits + sides.index_select(1, self.side_of)
        for value, sign in self.sides:
            logits[:, value] += log_right if sign > 0 else log_left
        return logits

    @torch.jit.unused
    def terms(self, image: Tensor) -> Tensor:
        """Image (B, C, ...) to the logits of left, of right, of background and of the unsided structures."""
        channels = self._channels(image)
        side = channels[:, -1]
        # Filled in place: concatenated, the maps would land in memory that is fresh for each window.
        terms = channels.new_empty(len(channels), channels.shape[1] + 1, *channels.shape[2:])
        terms[:, 2:] = channels[:, :-1]
        terms[:, 0], terms[:, 1] = _log_sigmoid(-side), _log_sigmoid(side)
        return terms

    def _channels(self, image: Tensor) -> Tensor:
        channels = self.network(image)
        if channels.shape[1] != self.needed:
            raise ValueError(f"the network gives {channels.shape[1]} channels, not the {self.needed} needed")
        return channels

    def around(self, network: nn.Module) -> "LateralSegmenter":
        """The same structures and sides by another network, such as a compiled form of the one inside."""
        return LateralSegmenter(network, self.table)


@torch.jit.unused
def _in_one(logits: Tensor) -> bool:
    return torch.compiler.is_exporting() or not logits.is_cpu


def _log_sigmoid(x: Tensor) -> Tensor:
    # As torch computes it; ONNX's own form of the operator gives minus infinity far from zero.
    return x.clamp(max=0) - x.abs().neg().exp().log1p()
