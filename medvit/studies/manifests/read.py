"""The reader of manifests: medvit's own form, those of nnU-Net and the decathlon, and plain lists."""

from __future__ import annotations

import csv
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

import medvit
from medvit.errors import MedvitError, did_you_mean
from medvit.studies.manifests.foreign import SECTIONS, of_csv, of_decathlon, of_list, of_nnunet
from medvit.studies.manifests.model import Manifest
from medvit.studies.manifests.own import of_own

SUFFIXES = (".yaml", ".yml", ".json", ".csv")


def installed_manifests() -> dict[str, Path]:
    """The manifests that came with medvit, by name; in a checkout, those beside the package."""
    package = Path(medvit.__file__).parent
    for folder in (package / "_data_manifests", package.parent / "data_manifests"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def read_manifest(path: str | Path) -> Manifest:
    """A manifest, by its path or by the name of one that came with medvit (``"brats2021"``).

    Four forms are accepted: medvit's own in YAML or JSON (docs/datasets.md), the ``dataset.json`` of the
    Medical Segmentation Decathlon (and similar datalists), that of nnU-Net v2, and lists of studies in JSON
    or CSV. For a folder, its ``dataset.json`` is read.

    Raises
    ------
    MedvitError
        If the manifest is missing or ambiguous; the message names the file and the key.
    """
    installed = installed_manifests()
    file = installed.get(str(path), Path(path).expanduser())
    if file.is_dir():
        file /= "dataset.json"
    if not file.is_file():
        hint = did_you_mean(str(path), installed)
        raise MedvitError(
            f"there is no manifest {path}{hint}; medvit comes with {', '.join(installed) or 'none'}"
        )
    if file.suffix.lower() not in SUFFIXES:
        raise MedvitError(f"{file} is not a manifest: its name must end in {', '.join(SUFFIXES)}")
    try:
        if file.suffix.lower() == ".csv":
            return of_csv(file)
        content = _load(file)
    except UnicodeDecodeError:
        raise MedvitError(f"{file} is not text in UTF-8; save it in this encoding") from None
    except (OSError, ValueError, RecursionError, TypeError, csv.Error, yaml.YAMLError) as error:
        raise MedvitError(f"{file} cannot be read as a manifest: {' '.join(str(error).split())}") from None
    if isinstance(content, list) or (isinstance(content, dict) and "studies" in content):
        return of_list(file, content)
    if isinstance(content, dict) and "file_ending" in content:
        return of_nnunet(file, content)
    if isinstance(content, dict) and any(isinstance(content.get(section), list) for section in SECTIONS):
        return of_decathlon(file, content)
    return of_own(file, content)


class _Loader(yaml.SafeLoader):
    """YAML without its two features that lose what was written: repeated keys and dates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands twice in line {node.start_mark.line + 1} ff.")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _load(file: Path) -> Any:
    text = file.read_text(encoding="utf-8-sig")
    return json.loads(text) if file.suffix.lower() == ".json" else yaml.load(text, _Loader)
