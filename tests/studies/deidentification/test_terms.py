"""Words of the standard and of the trade stay; whatever could be a person's name does not count as one."""

from __future__ import annotations

import pytest

from medvit.studies.deidentification.terms import is_term, is_trade, meaning_of, structure_names


@pytest.mark.parametrize(
    "text", ["B30f", "*tfl3d1_16ns", "FC12", "1H", "VA48A", "T1 axial", "3 T", "2.5mm", ""]
)
def test_names_built_by_rule_and_words_of_the_trade_are_trade(text: str) -> None:
    assert is_trade(text)


@pytest.mark.parametrize(
    "text", ["Meyer", "T1 axial Meyer", "Meyer^T1", "4711", "T1_MEYER_axial", "B30fMeyer"]
)
def test_a_name_or_a_long_number_is_not_trade(text: str) -> None:
    assert not is_trade(text)


def test_terms_are_compared_whole_and_with_their_case() -> None:
    assert is_term("ORIGINAL") and is_term(" ORIGINAL ")
    assert not is_term("original")
    assert not is_term("ORIGINAL MEYER")


def test_codes_have_the_meaning_of_the_standard_or_of_our_tables() -> None:
    assert meaning_of("SCT", "64033007").startswith("Kidney")
    assert meaning_of("SCT", "4711") == ""
    assert meaning_of("99MEYER", "64033007") == ""


def test_structures_of_our_label_tables_are_known() -> None:
    assert {"left hippocampus", "brain-stem"} <= structure_names()
