"""Versions of a bundle that were trained at the server: each a bundle, and the pristine one untouched."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medvit.bundles import Bundle
from medvit.runs import sha256_of
from medvit.studies import write_json
from medvit.training import save_weights

_NUMBER = re.compile(r"\+label\.(\d+)$")


@dataclass(frozen=True)
class Training:
    """What a version was trained on, and what came out.

    Parameters
    ----------
    studies
        How many annotated studies it learned from.
    held_out
        How many more were kept apart to measure it.
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
            return f"not measured: all {self.studies} annotated studies were trained on"
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
        final = self.folder / base.name / version
        partial = final.with_name(f".partial-{number}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            root = partial / base.name
            leave = shutil.ignore_patterns("models", "eval", "runs", "__pycache__")
            shutil.copytree(base.path, root, ignore=leave)
            weights = save_weights(network, root / "models" / "model.pt")
            metadata = _metadata(base, version, training, sha256_of(weights))
            write_json(root / "configs" / "metadata.json", metadata)
            _write_card(root / "docs" / "README.md", base, version, training)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Bundle(final / base.name)


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


def _write_card(path: Path, base: Bundle, version: str, training: Training) -> None:
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    card = f"""# {base.metadata.get("name", base.name)}, version {version}

Trained on {training.date} at a MONAI Label server, from version {base.version}.

| | |
| --- | --- |
| Annotated studies trained on | {training.studies} |
| Studies held out | {training.held_out} |
| Epochs | {training.epochs} |
| Quality | {training.quality} |

It has learned from the annotations of one place and was measured there alone. For research use.
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(card + (f"\nThe card of version {base.version} follows.\n\n{before}" if before else ""))
