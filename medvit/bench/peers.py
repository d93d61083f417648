"""Published networks of others to compare with our bundles, each with its own preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.bench.studies import BenchStudy, Reference
from medvit.errors import MedvitError, did_you_mean
from medvit.evaluation.structures import ScoredStructure

if TYPE_CHECKING:
    from medvit.bench.brainchop import BrainchopWork

# Classes of brainchop's "subcortical" model, sides together.
_BRAINCHOP = {
    "cerebral white matter": (1,),
    "cerebral cortex": (2,),
    "lateral ventricle": (3, 4),
    "cerebellar white matter": (5,),
    "cerebellar cortex": (6,),
    "thalamus": (7,),
    "caudate nucleus": (8,),
    "putamen": (9,),
    "globus pallidus": (10,),
    "third ventricle": (11,),
    "fourth ventricle": (12,),
    "brain-stem": (13,),
    "hippocampus": (14,),
    "amygdala": (15,),
    "nucleus accumbens": (16,),
    "ventral diencephalon": (17,),
}
STRUCTURES: Mapping[str, Mapping[str, tuple[int, ...]]] = {"brainchop": _BRAINCHOP}


@dataclass(frozen=True)
class Peer:
    """A published network whose files the user has.

    Parameters
    ----------
    name
        One of `STRUCTURES`.
    path
        Folder with ``model.json`` and ``model.pth``.
    """

    name: str
    path: Path
    version: str = ""

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.path / "model.pth"

    @property
    def layers(self) -> Path:
        """The file that lists the layers."""
        return self.path / "model.json"

    def work(self, output_dir: Path) -> BrainchopWork:
        """Its work on studies, which come to lie in `output_dir`."""
        from medvit.bench.brainchop import BrainchopWork

        return BrainchopWork(self.path, output_dir)

    def studies(self, studies: Sequence[BenchStudy]) -> list[BenchStudy]:
        """The studies with a reference whose structures the network has, by its own values."""
        own = STRUCTURES[self.name]
        compared = [replace(s, references=tuple(_of_peer(r, own) for r in s.references)) for s in studies]
        kept = [replace(s, references=tuple(r for r in s.references if r.drawn)) for s in compared]
        return [study for study in kept if study.references]


def read_peer(stated: str) -> Peer:
    """A peer from ``NAME=FOLDER``.

    Raises
    ------
    MedvitError
        If the form is wrong, the name is unknown, or a file is missing.
    """
    name, equals, folder = stated.partition("=")
    if not equals or name not in STRUCTURES:
        near = did_you_mean(name, STRUCTURES)
        raise MedvitError(f"{stated!r}: give NAME=FOLDER; known peers are {', '.join(STRUCTURES)}{near}")
    peer = Peer(name, Path(folder).expanduser())
    for path in (peer.layers, peer.weights):
        if not path.is_file():
            raise MedvitError(f"{path} does not exist; give the folder that holds {path.name}")
    return peer


def _of_peer(reference: Reference, own: Mapping[str, tuple[int, ...]]) -> Reference:
    drawn = tuple(region for region in reference.drawn if region.name in own)
    return replace(reference, found=tuple(ScoredStructure(r.name, own[r.name]) for r in drawn), drawn=drawn)
