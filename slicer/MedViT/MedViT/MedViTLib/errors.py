"""What can go wrong, each as one sentence that the module shows as it is."""

from __future__ import annotations


class MedViTError(Exception):
    """Something that the person at the viewer can put right."""


class Cancelled(MedViTError):
    """The person at the viewer cancelled."""

    def __init__(self) -> None:
        super().__init__("cancelled")
