"""Colour and standard terminology of each structure, from the terminology file that 3D Slicer loads."""

from __future__ import annotations

import colorsys
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANATOMY = {"CodingSchemeDesignator": "SCT", "CodeValue": "123037004", "CodeMeaning": "Anatomical Structure"}
_REGION_CONTEXT = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class Term:
    """How 3D Slicer shows and codes a structure.

    Parameters
    ----------
    color
        Red, green and blue, 0 to 1.
    entry
        A serialised terminology entry: context, category, type, modifier of the type, context of the region,
        region, modifier of the region.
    """

    color: tuple[float, float, float]
    entry: str


class Terminology:
    """The terms of a 3D Slicer terminology file, by the names of the structures.

    Parameters
    ----------
    path
        A ``.term.json`` file.
    """

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        self.context: str = content["SegmentationCategoryTypeContextName"]
        self._terms = {
            shown["3dSlicerLabel"].lower(): self._term(category, kind, modifier, shown)
            for category in content["SegmentationCodes"]["Category"]
            for kind in category["Type"]
            # A kind may be shown by itself, by its sides, or both ways.
            for modifier, shown in [({}, kind), *((m, m) for m in kind.get("Modifier", ()))]
            if "3dSlicerLabel" in shown
        }

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._terms

    def term(self, name: str, value: int) -> Term:
        """The term of a structure.

        A structure of a bundle that did not come with medvit gets a colour by its `value` and a code in the
        private scheme ``99MEDVIT`` (DICOM PS3.16 section 8), since a guessed code would be a false one.
        """
        if name in self:
            return self._terms[name.lower()]
        code = re.sub(r"\W+", "_", name).upper()[:16]
        private = {"CodingSchemeDesignator": "99MEDVIT", "CodeValue": code, "CodeMeaning": name}
        # Hues a golden angle apart: any number of them stay distinct.
        color = colorsys.hsv_to_rgb(value * 0.61803 % 1, 0.65, 0.9)
        return Term(color, self._entry(ANATOMY, private, {}))

    def _term(
        self, category: dict[str, Any], kind: dict[str, Any], modifier: dict[str, Any], shown: dict[str, Any]
    ) -> Term:
        red, green, blue = shown["recommendedDisplayRGBValue"]
        return Term((red / 255, green / 255, blue / 255), self._entry(category, kind, modifier))

    def _entry(self, category: dict[str, Any], kind: dict[str, Any], modifier: dict[str, Any]) -> str:
        nothing: dict[str, Any] = {}
        fields = [self.context, *map(_code, (category, kind, modifier)), _REGION_CONTEXT]
        return "~".join([*fields, _code(nothing), _code(nothing)])


def _code(code: dict[str, Any]) -> str:
    """Scheme, value and meaning; they must not contain the characters that separate them."""
    parts = (code.get(key, "") for key in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning"))
    return "^".join(re.sub(r"[~^]", " ", part) for part in parts)
