"""The opener of a bundle's configurations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from monai.bundle import ConfigParser

from medvit.bundles.find import Bundle
from medvit.errors import MedvitError, root_cause

# The log lines of MONAI and Ignite add nothing to the exceptions that they raise.
_LOUD = ("monai.bundle.workflows", "ignite.engine.engine")


class OpenBundle:
    """A workflow of a bundle whose configuration is read and whose components are made on demand.

    Parameters
    ----------
    bundle
        Its folder replaces ``bundle_root``, so that a copy works with its own weights.
    workflow
        Name of the configuration, such as ``"inference"`` or ``"train"``.
    overrides
        Values by identifier.

    Raises
    ------
    MedvitError
        If the bundle has no such workflow, or its configuration is not JSON.
    """

    def __init__(self, bundle: Bundle, workflow: str, overrides: dict[str, Any]) -> None:
        self.bundle = bundle
        self.file = bundle.config(workflow)
        self.parser = ConfigParser()
        try:
            self.parser.read_config(str(self.file))
            self.parser.read_meta(str(self.file.with_name("metadata.json")))
        except (OSError, ValueError) as error:
            raise MedvitError(f"{self.file}: cannot be read as a configuration: {error}") from error
        for name, value in {"bundle_root": str(bundle.path), **overrides}.items():
            self.parser.set(value, name)

    def __contains__(self, name: str) -> bool:
        return name in self.parser

    @property
    def names(self) -> list[str]:
        """Identifiers of the configuration, outermost ones only."""
        return [name for name in self.parser.get() if not name.startswith("_")]

    def stated(self, name: str) -> Any:
        """An entry exactly as the configuration states it, unevaluated."""
        return self.parser.get(name)

    def part(self, name: str, default: Any = ...) -> Any:
        """A component of the configuration, made at the first request.

        Parameters
        ----------
        name
            Identifier of the component.
        default
            Value to return if the configuration has no entry of that name.

        Raises
        ------
        MedvitError
            If the component raises an error, or is missing without a default.
        """
        if name not in self.parser and default is not ...:
            return default
        if name not in self.parser:
            raise MedvitError(f"{self.file} has no {name!r}")
        return _plainly(partial(self.parser.get_parsed_content, name))

    def execute(self, name: str) -> None:
        """Evaluate the expressions of a step, such as ``"initialize"`` or ``"run"``, in their order.

        Raises
        ------
        MedvitError
            If a component refuses.
        """
        for i in range(len(self.parser.get(name) or ())):
            _plainly(partial(self.parser.get_parsed_content, f"{name}#{i}"))


def open_bundle(bundle: Bundle, workflow: str = "inference", **overrides: Any) -> OpenBundle:
    """A workflow of a bundle, with values of its configuration replaced by identifier.

    Examples
    --------
    >>> from medvit.bundles import find_bundle
    >>> open_bundle(find_bundle("segformer3d_brain"), overlap=0.25).part("overlap")
    0.25
    """
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return OpenBundle(bundle, workflow, overrides)


def _plainly(make: Callable[[], Any]) -> Any:
    """The result of `make`; errors are raised without the wrappers that MONAI puts around them."""
    try:
        return make()
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, MedvitError):
            raise
    # Raised here and not within the handler, where its wrappers would become its context, in a circle.
    raise cause.with_traceback(None) from None
