"""Completions that shells offer when the Tab key is pressed; nothing heavy is imported for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import typer

from medvit.errors import MedvitError


def words(*known: str) -> Callable[[str], list[str]]:
    """A completion from a fixed list of words."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def complete_bundles(incomplete: str) -> list[str]:
    """Names of installed bundles, and folders."""
    from medvit.bundles.find import installed_bundles

    names = [bundle.name for bundle in installed_bundles() if bundle.name.startswith(incomplete)]
    inside = Path(incomplete if incomplete.endswith("/") else os.path.dirname(incomplete))  # noqa: PTH120
    begun = incomplete.removeprefix("./")
    folders = [f"{p}/" for p in inside.iterdir() if p.is_dir()] if inside.is_dir() else []
    return names + sorted(folder for folder in folders if folder.startswith(begun))


def complete_structures(ctx: typer.Context, incomplete: str) -> list[str]:
    """Structures of the bundle that was typed, after those before the last comma."""
    from medvit.bundles.find import find_bundle

    # An option without a value ends the parsing early, and the typed words stay in `args`.
    bundle = ctx.params.get("bundle") or next(iter(ctx.args), "")
    try:
        # Only the label table is read; nothing in the bundle is run.
        table = find_bundle(bundle, trust=True).label_table
    except MedvitError:
        return []
    before, comma, last = incomplete.rpartition(",")
    chosen = before.split(",")
    names = [s.name.replace(" ", "_") for s in table or ()]
    both = dict.fromkeys(name.removeprefix("left_").removeprefix("right_") for name in names)
    offered = dict.fromkeys([*both, *names])
    return [f"{before}{comma}{n}" for n in offered if n.startswith(last) and n not in chosen]


def complete_manifests(incomplete: str) -> list[str]:
    """Names of the manifests that came with medvit; if none match, the shell offers files."""
    from medvit.studies.manifests.read import installed_manifests

    return [name for name in installed_manifests() if name.startswith(incomplete)]


def complete_languages(incomplete: str) -> list[str]:
    """Languages of the reports."""
    from medvit.runs.options import languages

    return [code for code in languages() if code.startswith(incomplete)]
