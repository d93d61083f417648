"""Write the module's terminology file for 3D Slicer from the label tables of the installed bundles.

Run `python slicer/make_terminology.py` after a bundle or a label table has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medvit.bundles import installed_bundles
from medvit.errors import MedvitError
from medvit.studies.labels import Code, LabelTable, Structure

TARGET = Path(__file__).parent / "MedViT/MedViT/Resources/SegmentationCategoryTypeModifier-MedViT.term.json"
CONTEXT = "Segmentation category and type - MedViT"
SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/segment-context-schema.json#"
# DICOM PS3.16, context group 244.
SIDES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}


def terminology(tables: Iterable[LabelTable]) -> dict[str, Any]:
    """The structures of label tables as a terminology of 3D Slicer: category, type, side.

    Raises
    ------
    MedvitError
        If two tables give the same name to different concepts: results only carry names.
    """
    known: dict[str, Structure] = {}
    categories: dict[Code, dict[tuple[str, Code], dict[str, Any]]] = {}
    for structure in (s for table in tables for s in table):
        same = known.setdefault(structure.name.lower(), structure)
        if (same.code, same.category, same.side) != (structure.code, structure.category, structure.side):
            raise MedvitError(
                f"{structure.name!r} has two codes: {same.code.value} and {structure.code.value}"
            )
        if same is structure:
            kinds = categories.setdefault(structure.category, {})
            kind = kinds.setdefault((structure.unsided_name, structure.code), _coded(structure.code))
            if structure.side:
                kind.setdefault("Modifier", []).append(_shown(SIDES[structure.side], structure))
            else:
                kind.update(_shown(structure.code, structure))
    listed = [_coded(c) | {"showAnatomy": False, "Type": list(k.values())} for c, k in categories.items()]
    return {
        "SegmentationCategoryTypeContextName": CONTEXT,
        "@schema": SCHEMA,
        "SegmentationCodes": {"Category": listed},
    }


def content() -> str:
    """What the file should hold."""
    tables = [bundle.label_table for bundle in installed_bundles()]
    return json.dumps(terminology(t for t in tables if t is not None), indent=1) + "\n"


def _coded(code: Code) -> dict[str, Any]:
    return {"CodingSchemeDesignator": code.scheme, "CodeValue": code.value, "CodeMeaning": code.meaning}


def _shown(code: Code, structure: Structure) -> dict[str, Any]:
    return _coded(code) | {
        "3dSlicerLabel": structure.name,
        "recommendedDisplayRGBValue": list(structure.color),
    }


if __name__ == "__main__":
    TARGET.write_text(content(), encoding="utf-8")
    print(TARGET)
