"""Peers: named with their folder, and compared in the structures that they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.bench.peers import Peer, read_peer
from medvit.bench.studies import BenchStudy, Reference
from medvit.errors import MedvitError
from medvit.evaluation.structures import ScoredStructure


def test_a_peer_is_a_name_and_a_folder(tmp_path: Path) -> None:
    for name in ("model.json", "model.pth"):
        with pytest.raises(MedvitError, match=rf"{name} does not exist; give the folder that holds {name}"):
            read_peer(f"brainchop={tmp_path}")
        (tmp_path / name).write_text("")
    peer = read_peer(f"brainchop={tmp_path}")
    assert peer == Peer("brainchop", tmp_path)
    assert (peer.layers, peer.weights) == (tmp_path / "model.json", tmp_path / "model.pth")


@pytest.mark.parametrize("stated", ["brainchop", "brainchip=folder", "=folder"])
def test_other_forms_are_refused(stated: str) -> None:
    with pytest.raises(MedvitError, match="give NAME=FOLDER; known peers are brainchop"):
        read_peer(stated)


def test_what_a_peer_lacks_is_not_compared() -> None:
    ours = (ScoredStructure("lateral ventricle", (4, 5)), ScoredStructure("cerebrospinal fluid", (9,)))
    theirs = (ScoredStructure("lateral ventricle", (43,)), ScoredStructure("cerebrospinal fluid", (24,)))
    other = Reference("fluid", Path("b.nii"), ours[1:], theirs[1:])
    studies = [
        BenchStudy("a", Path("a.nii"), (Reference("manual", Path("a_seg.nii"), ours, theirs), other)),
        BenchStudy("b", Path("b.nii"), (other,)),
    ]
    (kept,) = Peer("brainchop", Path()).studies(studies)
    (reference,) = kept.references
    assert kept.id == "a"
    # By brainchop's own values, and those of the reference.
    assert reference.found == (ScoredStructure("lateral ventricle", (3, 4)),)
    assert reference.drawn == theirs[:1]
