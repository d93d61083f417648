"""A quick import of MONAI for commands that run bundles made of medvit's own components.

``import monai`` loads every module of MONAI, and with them optional packages such as Ignite, pandas and
Matplotlib: more CPU seconds than a small study takes.
"""

from __future__ import annotations

import gc
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvit.bundles import Bundle

# MONAI works without them, and nothing that medvit uses of it needs them.
_LEFT_OUT = (
    "ignite", "itk", "jsonschema", "matplotlib", "pandas", "pydicom", "requests", "scipy.signal",
    "scipy.sparse", "skimage", "sklearn", "tensorboard", "tifffile",
)  # fmt: skip
# Components of MONAI that need none of these packages.
_TRANSFORMS = {
    "Compose", "Orientationd", "ScaleIntensityRanged", "ScaleIntensityRangePercentilesd",
    "ThresholdIntensityd",
}  # fmt: skip
_IMPORT = re.compile(r"\$(from medvit(\.\w+)* import \w+|import torch)")


def import_monai_for(bundle: Bundle) -> None:
    """Import the part of MONAI that the inference workflow of a bundle needs, if that is known to suffice.

    It suffices if the configuration names medvit's components, some of MONAI's transforms and nothing else.
    Otherwise, or if MONAI has already been imported, nothing is done. Use it only in a process that does
    nothing but infer: functions of MONAI that need a package in `_LEFT_OUT` fail there.

    Parameters
    ----------
    bundle
        The bundle to infer with.
    """
    if "monai" in sys.modules or not _needs_little(bundle):
        return
    with _without_optional_packages(), _without_walking_packages(), _without_collecting():
        # The module that MONAI itself imports first: its modules import each other in a circle.
        import monai.apps
        import monai.bundle
        import monai.inferers
        import monai.utils.module  # noqa: F401


def _needs_little(bundle: Bundle) -> bool:
    try:
        config = json.loads(bundle.config("inference").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return all(_is_known(key, text) for key, text in _texts(config))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings in a configuration, each with its key."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _texts(entry, name)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, key)
    elif isinstance(value, str):
        yield key, value


def _is_known(key: str, text: str) -> bool:
    if key == "_target_":
        return text.startswith("medvit.") or text in _TRANSFORMS
    return "import" not in text or _IMPORT.fullmatch(text) is not None


@contextmanager
def _without_optional_packages() -> Iterator[None]:
    """Let the import of packages in `_LEFT_OUT` fail; those already imported stay."""
    hidden = [name for name in _LEFT_OUT if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the garbage collector from searching a million objects that stay, now and later."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def _without_walking_packages() -> Iterator[None]:
    """Keep MONAI from searching for all of its modules to load in advance."""
    found = pkgutil.walk_packages
    pkgutil.walk_packages = lambda *_, **__: iter(())
    try:
        yield
    finally:
        pkgutil.walk_packages = found
        if "monai.utils.module" in sys.modules:
            sys.modules["monai.utils.module"].walk_packages = found  # type: ignore[attr-defined]
