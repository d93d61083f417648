"""Versions of a bundle trained at the server; each is a bundle, and the installed one stays untouched."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medvit.bundles import Bundle
from medvit.bundles.write import card, to_json, write_bundle
from medvit.studies import sha256_of
from medvit.training import save_weights

_NUMBER = re.compile(r"\+label\.(\d+)$")


@dataclass(frozen=True)
class Training:
    """Training data and quality of a version.

    Parameters
    ----------
    studies
        Number of annotated studies that it learned from.
    held_out
        Number of further studies that were kept apart to measure it.
    epochs
        Passes over the studies.
    dice_before, dice
        Mean Dice over the structures of the held-out studies before and after; `None` without any.
    date
        ISO 8601.
    """

    studies: int
    held_out: int
    epochs: int
    dice_before: float | None
    dice: float | None
    date: str

    @property
    def quality(self) -> str:
        """The measured quality, in one clause."""
        if self.dice is None or self.dice_before is None:
            return (
                f"not measured: all {self.studies} annotated studies were trained on; "
                "served only where this version is asked for"
            )
        return (
            f"mean Dice {self.dice:.3f} on {self.held_out} held-out studies (before: {self.dice_before:.3f})"
        )


class Versions:
    """The trained versions in a folder, as ``<folder>/<bundle>/<version>/<bundle>``.

    Parameters
    ----------
    folder
        Made when the first version is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, name: str) -> list[Bundle]:
        """The trained versions of a bundle, newest first."""
        found = self.folder.glob(f"{name}/*/{name}/configs/metadata.json")
        return sorted((Bundle(p.parents[1]) for p in found), key=_number, reverse=True)

    def keep(self, base: Bundle, network: nn.Module, training: Training) -> Bundle:
        """`base` with the weights of `network`, as the next version; whole or not at all."""
        number = max(map(_number, self.of(base.name)), default=0) + 1
        version = f"{_NUMBER.sub('', base.version)}+label.{number}"

        def contents(weights: Path) -> dict[str, str | bytes]:
            metadata = _metadata(base, version, training, sha256_of(weights))
            return _texts(base) | {
                "configs/metadata.json": to_json(metadata),
                "docs/README.md": _card(base, version, training),
            }

        final = self.folder / base.name / version / base.name
        try:
            return write_bundle(final, lambda weights: save_weights(network, weights), contents)
        finally:
            with suppress(OSError):  # the folder of a version that could not be written is empty
                final.parent.rmdir()


def is_better(bundle: Bundle) -> bool:
    """Whether a trained version was measured on held-out studies and is no worse than its base version."""
    trained = bundle.facts.get("trained") or {}
    before, after = trained.get("dice_before"), trained.get("dice")
    return bool(trained.get("held_out")) and before is not None and after is not None and after >= before


def export(bundle: Bundle, folder: Path) -> Path:
    """A bundle as a zip file in `folder`, in the layout that ``python -m monai.bundle`` takes."""
    name = f"{bundle.name}_v{bundle.version}"
    return Path(shutil.make_archive(str(folder / name), "zip", bundle.path.parent, bundle.name))


def _number(bundle: Bundle) -> int:
    match = _NUMBER.search(bundle.version)
    return int(match.group(1)) if match else 0


def _metadata(base: Bundle, version: str, training: Training, sha256: str) -> dict[str, Any]:
    change = f"trained on {training.studies} annotated studies from {base.version}"
    return {
        **base.metadata,
        "version": version,
        "changelog": {version: change} | base.metadata.get("changelog", {}),
        "medvit": base.facts
        | {
            "quality": training.quality,
            "weights_sha256": sha256,
            "trained": {"from": base.version, "from_sha256": sha256_of(base.weights), **vars(training)},
        },
    }


def _texts(bundle: Bundle) -> dict[str, str | bytes]:
    """Content of each file of a bundle but weights and results, by its path in the bundle."""
    leave = {"models", "eval", "runs", "__pycache__"}
    files = (p for p in bundle.path.rglob("*") if p.is_file())
    paths = {file.relative_to(bundle.path): file for file in files}
    return {path.as_posix(): file.read_bytes() for path, file in paths.items() if not leave & {*path.parts}}


def _card(base: Bundle, version: str, training: Training) -> str:
    before = base.path / "docs" / "README.md"
    earlier = before.read_text(encoding="utf-8") if before.is_file() else ""
    return card(
        f"{base.metadata.get('name', base.name)}, version {version}",
        f"Trained on {training.date} at a MONAI Label server, from version {base.version}.",
        {
            "annotated studies trained on": str(training.studies),
            "studies held out": str(training.held_out),
            "epochs": str(training.epochs),
            "quality": training.quality,
        },
        "It has learned from the annotations of one place and was measured there alone. For research use.",
        *([f"The card of version {base.version} follows.", earlier] if earlier else []),
    )
