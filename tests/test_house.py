"""The house: packages import downward, names stand once, modules do not share their name with a function."""

from __future__ import annotations

import ast
import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(str(importlib.util.find_spec("medvit").origin)).parent  # type: ignore[union-attr]
# Ground first; a package imports from itself and from what stands before it.
FLOORS = (
    "errors", "exits", "studies", "networks", "metrics", "losses", "transforms", "inference", "synthesis",
    "reports", "evaluation", "datasets", "bundles", "runs", "training", "bench", "label", "api", "cli",
    "__main__",
)  # fmt: skip


@cache
def modules() -> tuple[tuple[Path, ast.Module], ...]:
    """Every module of the package by its path; parsed by the first test, not by whoever collects them."""
    files = sorted(ROOT.rglob("*.py"))
    return tuple((file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))) for file in files)


def package_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "medvit":
            yield from (alias.name for alias in node.names if alias.name in FLOORS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medvit."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("medvit."))


def test_a_package_imports_only_downward() -> None:
    floor = {package: number for number, package in enumerate(FLOORS)} | {"__init__": len(FLOORS)}
    upward = {
        f"{path}: {name}"
        for path, tree in modules()
        for name in imports(tree)
        if floor[name] > floor[package_of(path)]
    }
    assert not upward


def test_every_package_has_its_floor() -> None:
    assert {package_of(path) for path, _ in modules()} - {"__init__"} == set(FLOORS)


def test_a_class_has_its_name_alone() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        if path.parts[0] != "networks":  # one architecture a file; their blocks have the papers' names
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_module_is_named_like_a_function_in_it() -> None:
    alike = [
        str(path)
        for path, tree in modules()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == path.stem
    ]
    assert alike == []


def test_no_configuration_of_an_installed_bundle_is_opened_but_by_the_opener() -> None:
    openers = {
        str(path)
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "read_config"
    }
    assert openers == {"bundles/workflow.py"}
