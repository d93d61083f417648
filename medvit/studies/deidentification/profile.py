"""`Profile`: how to de-identify, and the pseudonyms, UIDs and date shifts derived from its secret."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Literal

from pydicom.uid import UID, UID_dictionary


@dataclass(frozen=True)
class Profile:
    """How to de-identify.

    Parameters
    ----------
    secret
        Determines pseudonyms, new UIDs and date shifts. The same secret gives the same ones, so that further
        studies of a patient match; once it is discarded, nobody can reverse them. Default: a new one.
    dates
        ``"remove"``: the Basic Profile. ``"shift"``: by the same number of days for all studies of a
        patient, 1 to 10 years back, times of day kept (Retain Longitudinal Temporal Information with
        Modified Dates Option).
    keep_characteristics
        Keep age, sex, size and weight, which SUV needs (Retain Patient Characteristics Option).
    allow_screens
        Accept images that may show text in their pixels; these are refused otherwise.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    dates: Literal["remove", "shift"] = "remove"
    keep_characteristics: bool = False
    allow_screens: bool = False

    def digest(self, *what: str) -> bytes:
        """32 bytes derived from the secret and `what`."""
        return hmac.new(self.secret, "\0".join(what).encode(), hashlib.sha256).digest()

    def uid(self, old: str) -> UID:
        """The new UID for an old one; UIDs defined by DICOM itself stay."""
        if not old or old in UID_dictionary:
            return UID(old)
        return self.uid_of("uid", old)

    def uid_of(self, *what: str) -> UID:
        """A UID derived from the secret and `what` by way of a UUID (PS3.5 B.2)."""
        return UID(f"2.25.{int.from_bytes(self.digest(*what)[:16], 'big')}")
