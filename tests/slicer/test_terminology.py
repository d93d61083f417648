"""Every structure of every bundle has its colour and its code in 3D Slicer."""

import importlib.util
from pathlib import Path

import pytest
from MedViTLib.terminology import Terminology

from medvit.bundles import Bundle, installed_bundles
from medvit.errors import MedvitError
from medvit.studies.labels import parse_label_table

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("make_terminology", ROOT / "slicer" / "make_terminology.py")
assert _spec is not None and _spec.loader is not None
make_terminology = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_terminology)
terminology = Terminology(make_terminology.TARGET)


@pytest.mark.parametrize("bundle", installed_bundles(), ids=lambda b: b.name)
def test_every_label_of_every_installed_bundle_has_terminology(bundle: Bundle) -> None:
    for structure in bundle.label_table or ():
        assert structure.name in terminology
        term = terminology.term(structure.name, structure.value)
        assert tuple(round(255 * c) for c in term.color) == structure.color
        context, category, kind, modifier, _, region, region_modifier = term.entry.split("~")
        assert context == make_terminology.CONTEXT
        assert category == f"SCT^{structure.category.value}^{structure.category.meaning}"
        assert kind == f"{structure.code.scheme}^{structure.code.value}^{structure.code.meaning}"
        side = {"left": "SCT^7771000^Left", "right": "SCT^24028007^Right", "": "^^"}
        assert modifier == side[structure.side]
        assert region == region_modifier == "^^"


def test_the_file_is_what_the_script_writes() -> None:
    assert make_terminology.TARGET.read_text(encoding="utf-8") == make_terminology.content()


def test_structures_of_other_bundles_get_a_private_code_and_a_colour_of_their_own() -> None:
    term = terminology.term("a~new^part", 1)
    assert "~99MEDVIT^A_NEW_PART^a new part~^^~" in term.entry
    assert term.entry.count("~") == 6
    assert term.color != terminology.term("another", 2).color
    assert all(0 <= c <= 1 for c in term.color)


def test_names_are_found_in_any_case() -> None:
    assert terminology.term("Left Hippocampus", 1) == terminology.term("left hippocampus", 1)


def test_a_name_with_two_meanings_is_refused() -> None:
    def table(code: str) -> dict:
        return {
            "name": code,
            "structures": [{"name": "tumour", "code": {"value": code, "meaning": "Tumour"}}],
        }

    same = parse_label_table(table("1"))
    assert make_terminology.terminology([same, same])
    with pytest.raises(MedvitError, match="'tumour' has two codes: 1 and 2"):
        make_terminology.terminology([same, parse_label_table(table("2"))])
