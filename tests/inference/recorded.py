"""CUDA graphs on a CPU: operators are noted as they run, and run again on the same memory at a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks._measure import Operators


class Graph(Operators):
    """What a CUDA graph keeps of a call: operators and memory, and nothing that Python decided.

    As a GPU does during a capture, it refuses to read a value back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[Callable[[], None]] = []

    def launch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operator, and note how to run it again on the same memory."""
        if func.name().startswith(("aten::_local_scalar_dense", "aten::nonzero")):
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **kwargs)
        if func.is_view:
            return result
        held = [] if func._schema.is_mutable else [t for t in tree_leaves(result) if isinstance(t, Tensor)]

        def again() -> None:
            values = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, Tensor)]
            for place, value in zip(held, values, strict=False):
                place.copy_(value)

        self.launched.append(again)
        return result

    def replay(self) -> None:
        """Run all operators again."""
        for launch in self.launched:
            launch()


def record(network: Callable[[Tensor], Tensor], windows: Tensor) -> Callable[[Tensor], Tensor]:
    """As `medvit.inference.graphs.record_launches`, on a CPU."""
    held, graph = windows.clone(), Graph()
    with graph:
        logits = network(held)

    def replay(windows: Tensor) -> Tensor:
        held.copy_(windows)
        graph.replay()
        return logits

    return replay
