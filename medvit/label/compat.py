"""Stand-ins for imports of MONAI Label 0.8.5, which it needs to start with current pydicom, torch and numpy.

Except for distutils, this app uses none of them: they belong to a DICOM SEG reader, to pictures of training
and to a pathology store. Each stand-in says when it can be removed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import Any, NoReturn

#: Module, the names imported from it, and what makes the stand-in superfluous.
STAND_INS: dict[str, tuple[tuple[str, ...], str]] = {
    "pydicom_seg": ((), "a MONAI Label after 0.8.5, which reads DICOM SEG with highdicom"),
    "torchvision": (("utils",), "a torchvision built for the CPU torch in use"),
    "torchvision.utils": (("make_grid", "save_image"), "a torchvision built for the CPU torch in use"),
    "distutils": (("util",), "a MONAI Label for Python 3.12, whose standard library has no distutils"),
    "distutils.util": (("strtobool",), "a MONAI Label for Python 3.12"),
    "girder_client": (("GirderClient",), "a MONAI Label that imports its pathology store when asked for it"),
}


def strtobool(text: str) -> int:
    """1 for words that mean yes and 0 for words that mean no, like the function in distutils.

    Raises
    ------
    ValueError
        For any other word.
    """
    if text.lower() in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if text.lower() in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"{text!r} means neither yes nor no")


_WORKING = {"distutils.util.strtobool": strtobool}


def install() -> list[str]:
    """Install stand-ins for modules that are missing or cannot work, and return their names.

    pydicom-seg 0.4.1 cannot be imported with pydicom 3, so it is replaced even where it is installed. The
    others are left alone where they are installed.
    """
    # MONAI Label's background tasks read this variable without asking whether it is set.
    os.environ.setdefault("PYTHONPATH", "")
    placed = []
    for name, (attributes, until) in STAND_INS.items():
        if name in sys.modules or (name != "pydicom_seg" and _installed(name)):
            continue
        module = ModuleType(name, f"Stand-in until there is {until}.")
        module.__path__ = []
        sys.modules[name] = module
        for attribute in attributes:
            known = _WORKING.get(f"{name}.{attribute}") or sys.modules.get(f"{name}.{attribute}")
            setattr(module, attribute, known or _absent(name, attribute))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        placed.append(name)
    return placed


def _installed(name: str) -> bool:
    top = sys.modules.get(name.partition(".")[0])
    if top is not None and (top.__doc__ or "").startswith("Stand-in"):
        return False
    return importlib.util.find_spec(name) is not None


def _absent(module: str, attribute: str) -> Any:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ImportError(f"{module}.{attribute} is not part of this installation of MONAI Label")

    return refuse


if __name__ == "__main__":
    # `python -m medvit.label.compat start_server ...` is MONAI Label's own command, with any of its apps.
    install()
    from monailabel.main import Main

    Main().run()
