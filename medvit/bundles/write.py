"""Writing bundles from a specification: shipped, converted and trained ones, completely or not at all.

``python -m medvit.bundles.write [FOLDER...]`` rewrites the configurations of bundles: those of a checkout,
or those whose folders are given.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from medvit import __version__
from medvit.bundles.find import Bundle
from medvit.bundles.templates import Specification, resolve
from medvit.errors import MedvitError
from medvit.studies import safe_name
from medvit.studies.labels import LabelTable, load_label_table

# Text, or bytes, of each file of a bundle by its path there.
Contents = Mapping[str, str | bytes] | Mapping[str, str]

SPECIFICATION = "bundle.json"
_WIDTH = 105
# Components and steps in the order in which a study passes through them; settings come before them.
_ORDER = (
    "displayable_configs", "network_def", "network", "loss", "loss_on_device", "optimizer", "lr_scheduler",
    "ema", "best", "progress", "gate", "preprocessing", "datalist", "dataset", "dataloader", "inferer",
    "postprocessing", "writer", "train", "validate", "handlers", "evaluator", "initialize", "run", "finalize",
)  # fmt: skip
_LISTED = ("imports", "initialize", "run", "finalize")


def bundle_files(
    name: str, specification: Mapping[str, Any], workflows: tuple[str, ...] = ()
) -> dict[str, str]:
    """Text of each file of a bundle below ``configs/``, by its path in the bundle.

    Parameters
    ----------
    name
        Name of the bundle's folder.
    specification
        Template and sections, as `medvit.bundles.templates` describes them.
    workflows
        Sections to write beside the metadata; all by default.
    """
    sections = resolve(specification)
    described = _metadata(sections.pop("metadata"))
    written = {
        f"configs/{section}.json": to_json(_configuration(name, sections[section]))
        for section in workflows or sections
    }
    return {
        **written,
        "configs/metadata.json": to_json(described),
        "configs/logging.conf": (files("medvit.bundles.templates") / "logging.conf").read_text("utf-8"),
    }


def write_bundle(
    folder: Path, save_weights: Callable[[Path], Any], contents: Callable[[Path], Contents]
) -> Bundle:
    """Write a bundle from its weights and the content of its files; after a failure nothing is left.

    Parameters
    ----------
    folder
        Must not hold anything yet.
    save_weights
        Function that writes the weights to a path.
    contents
        Returns the content of each file by its path in the bundle; called with the path of the weights once
        they are written.

    Raises
    ------
    MedvitError
        If the folder is not empty.
    """
    refuse_existing(folder)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    weights = partial / "models" / "model.pt"
    try:
        weights.parent.mkdir(parents=True)
        save_weights(weights)
        write_files(partial, contents(weights))
        with suppress(FileNotFoundError):
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle(folder.resolve())


def refuse_existing(folder: Path) -> None:
    """Raise `MedvitError` if the folder for a bundle already holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MedvitError(f"{folder} exists already: give a folder that does not exist")


def write_files(folder: Path, contents: Contents) -> None:
    """Write files to their paths below `folder`."""
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def first_version(change: str) -> dict[str, Any]:
    """Metadata of a new bundle about its version and the software that made it."""
    return {
        "changelog": {"0.1.0": change},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {"medvit": __version__},
    }


def card(title: str, introduction: str, facts: Mapping[str, str], *sections: str) -> str:
    """The text of ``docs/README.md``: a title, what the bundle is, a table of facts, then sections.

    Parameters
    ----------
    title, introduction
        First lines of the card.
    facts
        Rows of the table.
    sections
        Text in Markdown, each with its own heading.
    """
    rows = "".join(f"| {word} | {clause} |\n" for word, clause in facts.items())
    parts = [f"# {title}", introduction.strip(), f"| | |\n| --- | --- |\n{rows}".strip()]
    return "\n\n".join([*parts, *(section.strip() for section in sections)]) + "\n"


def to_json(content: Any) -> str:
    """`content` as JSON that is pleasant to read: short lists of plain values stand on one line."""
    return _layout(content) + "\n"


def _layout(content: Any, indent: int = 0, key: str = "") -> str:
    line = json.dumps(content, ensure_ascii=False)
    if not content or not isinstance(content, dict | list):
        return line
    plain = isinstance(content, list) and not any(isinstance(item, dict | list) for item in content)
    if plain and key not in _LISTED and indent + len(key) + len(line) <= _WIDTH:
        return line
    deeper = indent + 4
    if isinstance(content, dict):
        items = [f"{json.dumps(k, ensure_ascii=False)}: {_layout(v, deeper, k)}" for k, v in content.items()]
    else:
        items = [_layout(item, deeper) for item in content]
    inside = ",\n".join(" " * deeper + item for item in items)
    opening, closing = "{}" if isinstance(content, dict) else "[]"
    return f"{opening}\n{inside}\n{' ' * indent}{closing}"


def _configuration(name: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries in reading order: imports, settings, components, steps; with the bundle's root."""
    entries = dict(entries)
    head = {}
    if "imports" in entries:
        # The name of the folder must never become part of an expression.
        head = {
            "imports": entries.pop("imports"),
            "bundle_root": f"$bundles.locate({safe_name(name)!r})",
        }
    components = {key: entries.pop(key) for key in _ORDER if key in entries}
    return head | entries | components


def _metadata(entries: Specification) -> dict[str, Any]:
    """The metadata with derived entries: version, output shape, channels of the label table."""
    data = entries["network_data_format"]
    image, prediction = data["inputs"]["image"], data["outputs"]["pred"]
    prediction.setdefault("spatial_shape", image["spatial_shape"])
    table = _table(entries["medvit"].get("labels"))
    if table is not None:
        prediction.setdefault("channel_def", table.channel_def)
    for tensor in (image, prediction):
        tensor["num_channels"] = len(tensor["channel_def"])
    return {"schema": entries.pop("schema"), "version": next(iter(entries["changelog"])), **entries}


def _table(labels: Any) -> LabelTable | None:
    return load_label_table(labels) if labels else None


def main(folders: Sequence[str] = ()) -> None:
    """Write the configurations of bundles by their specifications; of all in the checkout by default."""
    files = [Path(folder).resolve() / SPECIFICATION for folder in folders]
    missing = [folder for folder, file in zip(folders, files, strict=True) if not file.is_file()]
    if missing:
        raise SystemExit(
            f"no {SPECIFICATION} in {', '.join(missing)}: give folders of bundles, or none for all"
        )
    for file in files or sorted((Path(__file__).parents[2] / "bundles").glob(f"*/{SPECIFICATION}")):
        specification = json.loads(file.read_text(encoding="utf-8"))
        write_files(file.parent, bundle_files(file.parent.name, specification))
        print(f"{file.parent.name}: written from {file.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
