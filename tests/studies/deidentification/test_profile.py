"""Pseudonyms, UIDs and shifts: the same for the same secret, different for another, reversible for nobody."""

from __future__ import annotations

import hashlib
import hmac

from pydicom.uid import ExplicitVRLittleEndian

from medvit.studies.deidentification.profile import Profile

ONE, OTHER = Profile(b"one"), Profile(b"other")
OLD = "1.2.840.113619.2.1"


def test_uids_follow_the_secret() -> None:
    new = ONE.uid(OLD)
    assert new == Profile(b"one", dates="shift").uid(OLD) and new != OTHER.uid(OLD)
    assert new != ONE.uid(OLD + "1")
    assert new.is_valid and len(new) <= 64
    # A UUID under 2.25, as PS3.5 B.2 has it: 128 bits of the digest.
    digest = hmac.new(b"one", f"uid\0{OLD}".encode(), hashlib.sha256).digest()
    assert new == f"2.25.{int.from_bytes(digest[:16], 'big')}"


def test_uids_of_the_standard_and_empty_ones_stay() -> None:
    assert ONE.uid(ExplicitVRLittleEndian) == ExplicitVRLittleEndian
    assert ONE.uid("") == ""


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert ONE.digest("ab", "c") != ONE.digest("a", "bc")
    assert len(ONE.digest("a")) == 32


def test_a_secret_is_new_and_never_shown() -> None:
    first, second = Profile(), Profile()
    assert first.secret != second.secret and len(first.secret) == 32
    assert "secret" not in repr(Profile(b"hidden")) and "hidden" not in repr(Profile(b"hidden"))
