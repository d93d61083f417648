"""The work of a bundle: its workflow built once in a worker, then one study after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles import Bundle
from medvit.errors import WeightsError
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Found, Study

if TYPE_CHECKING:
    from torch import nn

    from medvit.bundles import OpenBundle
    from medvit.runs.folder import StudyWriter


@dataclass
class BundleWork:
    """What the inference workflow of a bundle does to a study.

    Parameters
    ----------
    bundle
        From `medvit.bundles.find_bundle`.
    output_dir
        Absolute folder of the results.
    overrides
        Values of the configuration to replace, by identifier.
    threads
        Threads of torch in each worker at most; 0 leaves it to torch.
    """

    bundle: Bundle
    output_dir: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    preload: tuple[str, ...] = field(default=("medvit.runs.evaluator",), init=False, repr=False)
    _opened: OpenBundle | None = field(default=None, init=False, repr=False)

    def find(self, inputs: Sequence[str]) -> Found:
        """The studies in `inputs`, by the rules of the bundle."""
        return self._open(inputs).part("dataset").found

    def open(self) -> None:
        """Load the network."""
        import torch

        if self.threads:
            torch.set_num_threads(min(self.threads, torch.get_num_threads()))
        self._opened = self._open([])
        self._opened.part("evaluator")

    @property
    def network(self) -> nn.Module:
        """The network, once it is loaded."""
        assert self._opened is not None, "a worker opens its work first"
        return self._opened.part("network")

    @property
    def writer(self) -> StudyWriter:
        """What writes the results; without the network where that is not loaded.

        Raises
        ------
        WeightsError
            If the bundle has no weights.
        """
        if self._opened is None:
            self._opened = self._open([])
        writer: StudyWriter = self._opened.part("writer")
        if not writer.checkpoint.is_file():
            raise WeightsError(f"{writer.checkpoint}: bundle {self.bundle.name} has no weights")
        return writer

    def made_by(self) -> dict[str, Any]:
        """Bundle, configuration, weights and settings."""
        return self.writer.made_by()

    def perform(self, study: Study) -> StudyOutcome:
        """Read, infer and write `study`."""
        assert self._opened is not None, "a worker opens its work first"
        item = self._opened.part("dataset").prepare(study)
        return self._opened.part("evaluator").process(item)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self, inputs: Sequence[str]) -> OpenBundle:
        from medvit.bundles import open_bundle

        return open_bundle(
            self.bundle,
            input=[str(Path(i).absolute()) if Path(i).exists() else str(i) for i in inputs],
            output_dir=str(self.output_dir),
            # Equal studies shall have equal results, however often a run was broken off.
            timings=False,
            **self.overrides,
        )
