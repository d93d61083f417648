"""The command line of ``python -m monai.bundle`` as a configuration sees it: bundle folder and flags."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, did_you_mean

# Flags of `monai.bundle run` itself.
_OF_MONAI = {
    "args_file", "config_file", "final_id", "init_id", "logging_file", "meta_file", "properties_path",
    "run_id", "tracking", "workflow_name", "workflow_type",
}  # fmt: skip


def locate(name: str) -> str:
    """Folder of a bundle, for its own configuration, which cannot see its own path.

    It is the folder of the workflow that evaluates the configuration, of the configuration file that the
    command line names, or the working directory. Nothing is guessed beyond these: the installed bundle of
    that name may hold other weights.

    Parameters
    ----------
    name
        Name of the bundle's folder, by which the working directory is recognised.

    Raises
    ------
    MedvitError
        If none of these tells the folder, or the command line names several.
    """
    here = Path.cwd()
    sources = (
        _folders_of_workflow(),
        _folders_on_command_line(),
        [folder for folder in (here, here.parent) if folder.name == name],
    )
    for folders in sources:
        found = {folder for folder in folders if (folder / "configs" / "metadata.json").is_file()}
        if len(found) > 1:
            named = " and ".join(sorted(map(str, found)))
            raise MedvitError(f"bundle {name}: {named} are both named; give --bundle_root FOLDER")
        if found:
            return str(found.pop())
    raise MedvitError(
        f"bundle {name}: its folder does not follow from its configuration; set bundle_root to the folder, "
        f"or open it with medvit.bundles.open_bundle"
    )


def check_flags() -> None:
    """End ``python -m monai.bundle run`` if it was given a flag that no configuration file knows.

    MONAI takes such a flag for a new identifier, so that a mistyped one has no effect. In any other process
    nothing happens.
    """
    if not sys.argv[0].endswith("__main__.py") or sys.argv[1:2] != ["run"]:
        return
    known: set[str] = set(_OF_MONAI)
    for file in _files_on_command_line():
        known |= {key.partition("#")[0].lstrip("+") for key in _read(file)}
    flags = [argument[2:].partition("=")[0] for argument in sys.argv[2:] if argument.startswith("--")]
    for flag in flags:
        top = re.split("#|::", flag.replace("-", "_"))[0].lstrip("+")
        if top not in known and known > _OF_MONAI:
            # Unlike an exception, this passes through MONAI without two tracebacks around it.
            sys.exit(f"medvit: the configuration has nothing named {flag!r}{did_you_mean(top, known)}")


def _read(file: Path) -> dict[str, Any]:
    if file.suffix in (".yaml", ".yml"):
        import yaml

        return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return json.loads(file.read_text(encoding="utf-8"))


def _folders_of_workflow() -> list[Path]:
    """The bundle folder of MONAI's workflow that is evaluating an expression at this moment."""
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        # MONAI passes no path to an expression, but the workflow on the stack knows it.
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return [workflow.config_root_path.resolve().parent]
        frame = frame.f_back
    return []


def _files_on_command_line() -> list[Path]:
    """Configuration files that the process was started with."""
    names = [n for argument in sys.argv[1:] for n in re.findall(r"[^'\"\[\],=]+\.(?:json|ya?ml)", argument)]
    return [path for name in names if (path := Path(name.strip())).is_file()]


def _folders_on_command_line() -> list[Path]:
    files = [file.resolve() for file in _files_on_command_line()]
    return [file.parents[1] for file in files if file.parent.name == "configs"]
