"""The available bundles: their folders and their metadata. Imports neither torch nor monai."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, did_you_mean
from medvit.studies.labels import LabelTable, Structure, load_label_table, parse_label_table

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Bundle:
    """A MONAI bundle on disk.

    Parameters
    ----------
    path
        Its folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder, by which a bundle is called."""
        return self.path.name

    @property
    def zoo_name(self) -> str:
        """Name in the style of MONAI's model zoo: anatomy, modality, network, task."""
        return self.facts.get("zoo_name", self.name)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Content of ``configs/metadata.json``.

        Raises
        ------
        MedvitError
            If the file is not a JSON object.
        """
        file = self.path / "configs" / "metadata.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:  # of JSON, or of the encoding
            raise MedvitError(
                f"{file} is not JSON ({error}); correct it or fetch the bundle again"
            ) from error
        if not isinstance(content, dict):
            raise MedvitError(f"{file} holds no JSON object; correct it or fetch the bundle again")
        return content

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return str(self.metadata["version"])

    @property
    def facts(self) -> dict[str, Any]:
        """The bundle's entry for medvit: label table, modality, measured quality, hash of the weights."""
        return self.metadata.get("medvit", {})

    @property
    def weights(self) -> Path:
        """The weights file: ``model.pt`` unless the metadata name another."""
        # A bundle that is being made gets its weights before its metadata.
        described = (self.path / "configs" / "metadata.json").is_file()
        return self.path / "models" / (self.facts.get("weights", "model.pt") if described else "model.pt")

    @property
    def is_quantised(self) -> bool:
        """Whether its network was quantised after the training of another bundle; it only runs."""
        return "quantised" in self.facts

    @property
    def label_table(self) -> LabelTable | None:
        """The structures that the bundle segments; `None` for a restorer.

        The metadata names a table that ships with medvit, or holds one of its own.
        """
        labels = self.facts.get("labels")
        if isinstance(labels, dict):
            return parse_label_table(labels)
        return load_label_table(labels) if labels else None

    def structures(self, names: Sequence[str] = ()) -> tuple[Structure, ...]:
        """The structures of these names, or all that the bundle segments.

        Raises
        ------
        MedvitError
            If it segments nothing, or has no structure of a name.
        """
        if self.label_table is None:
            raise MedvitError(f"bundle {self.name} restores images and has no structures to choose from")
        return self.label_table.chosen(names) if names else self.label_table.structures

    def summary(self) -> dict[str, Any]:
        """The facts by which a user chooses a bundle."""
        weights = f"{self.weights.stat().st_size / 1e6:.1f} MB" if self.weights.is_file() else "missing"
        return {
            "version": self.version,
            "zoo name": self.zoo_name,
            "task": self.metadata["task"],
            "modality": ", ".join(self.facts.get("modality", ())),
            "quality": self.facts.get("quality", "not measured"),
            "weights": weights,
            "path": str(self.path),
        }

    def config(self, name: str) -> Path:
        """Path of ``configs/<name>.json``.

        Raises
        ------
        MedvitError
            If the bundle has no such workflow.
        """
        file = self.path / "configs" / f"{name}.json"
        if not file.is_file():
            raise MedvitError(f"bundle {self.name} has no {name} workflow")
        return file


def installed_bundles() -> list[Bundle]:
    """The bundles that came with medvit, in order of name; in a checkout, those beside the package."""
    for folder in (_PACKAGE / "_bundles", _PACKAGE.parent / "bundles"):
        if folder.is_dir():
            return [
                Bundle(p) for p in sorted(folder.iterdir()) if (p / "configs" / "metadata.json").is_file()
            ]
    return []


def is_bundle(name: str) -> bool:
    """Whether a bundle is installed under `name`, or `name` is the folder of one."""
    installed = any(name in (bundle.name, bundle.zoo_name) for bundle in installed_bundles())
    return installed or (Path(name).expanduser() / "configs" / "metadata.json").is_file()


def find_bundle(name: str, *, trust: bool = False) -> Bundle:
    """An installed bundle by name, also in the model zoo's style, or any bundle folder that is trusted.

    The configuration of a bundle is code that runs with the user's rights, so a folder that was not installed
    with medvit is accepted only if the caller says that it is trusted.

    Raises
    ------
    MedvitError
        If there is no such bundle, or it is a folder that is not trusted.
    """
    at_hand = {bundle.name: bundle for bundle in installed_bundles()}
    if name in at_hand:
        return at_hand[name]
    for bundle in at_hand.values():
        if name == bundle.zoo_name:
            return bundle
    folder = Path(name).expanduser()
    if not (folder / "configs" / "metadata.json").is_file():
        raise MedvitError(
            f"there is no bundle {name!r}{did_you_mean(name, at_hand)}; "
            f"installed are: {', '.join(at_hand) or 'none'}"
        )
    if not trust:
        raise MedvitError(
            f"{name} did not come with medvit, and a bundle's configuration is code: "
            "read it, then give --trust to run it"
        )
    return Bundle(folder.resolve())
