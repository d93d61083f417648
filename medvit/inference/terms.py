"""Logits that are sums of fewer maps, which are blended and interpolated in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """Which maps add up to the logit of each class.

    Blending and interpolation are linear, so that they give the same for the terms, added up afterwards, as
    for the logits. A network offers its terms by two attributes: ``class_terms``, a tuple of the terms of
    each class, and ``terms``, a method from windows (B, C, *roi_size) to the terms (B, T, *roi_size).

    Parameters
    ----------
    of_class
        Indices of the terms of each class.
    """

    of_class: tuple[tuple[int, ...], ...]

    @classmethod
    def shared(cls, networks: Sequence[Any]) -> Terms | None:
        """The terms of an ensemble, if all its members offer the same ones.

        A network with hooks offers none: they are called with its logits, as `torch.nn.Module` promises.
        """
        if any(_has_hooks(network) for network in networks):
            return None
        found = {getattr(network, "class_terms", None) for network in networks}
        of_class = found.pop()
        return None if found or of_class is None else cls(of_class)

    def logits(self, terms: Tensor) -> Tensor:
        """Logits (classes, ...) of terms (T, ...)."""
        return torch.stack(list(self.in_turn(terms)))

    def in_turn(self, terms: Iterable[Tensor]) -> Iterator[Tensor]:
        """The logits of one class after the other; a term is held until its last class, and no longer."""
        coming = enumerate(terms)
        last = {term: number for number, those in enumerate(self.of_class) for term in those}
        held: dict[int, Tensor] = {}
        for number, (first, *others) in enumerate(self.of_class):
            while not held.keys() >= {first, *others}:
                held.update([next(coming)])
            logits = held[first]
            for term in others:
                logits = logits + held[term]
            yield logits
            for term in (first, *others):
                if last[term] == number:
                    del held[term]

    def split(self, logits: Tensor) -> Tensor:
        """Terms (T,) of logits (classes,) that are alike in all classes with the same first term."""
        terms = logits.new_zeros(1 + max(map(max, self.of_class)))
        for (first, *_), value in zip(self.of_class, logits, strict=True):
            terms[first] = value
        return terms


def _has_hooks(network: Any) -> bool:
    return bool(getattr(network, "_forward_hooks", ()) or getattr(network, "_forward_pre_hooks", ()))
