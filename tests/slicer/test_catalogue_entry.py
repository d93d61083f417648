"""The entry for Slicer's ExtensionsIndex keeps to its schema, but for the address that is not known yet."""

import json
from pathlib import Path

import jsonschema

ENTRY = Path(__file__).parents[2] / "slicer" / "MedViT.json"
TEXT = {"type": "string"}
#: What schema 1.0.1 of the catalogue asks for.
SCHEMA = {
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        "$schema": TEXT,
        "category": TEXT,
        "scm_url": TEXT,
        "scm_revision": TEXT,
        "scm_type": {"enum": ["git", "local"]},
        "build_dependencies": {"type": "array", "items": TEXT},
        "build_subdirectory": TEXT,
        "enabled": {"type": "boolean"},
        "tier": {"enum": [1, 3, 5]},
    },
}


def test_the_entry_lacks_the_address_of_a_repository_alone() -> None:
    entry = json.loads(ENTRY.read_text(encoding="utf-8"))
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert "scm_url" not in entry
    jsonschema.validate({**entry, "scm_url": "https://example.org/medvit.git"}, SCHEMA)
