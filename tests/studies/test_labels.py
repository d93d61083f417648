"""Label tables: values without a gap, pairs, and codes even where none was given."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.studies.labels import (
    Code,
    LabelTable,
    Structure,
    keep_values,
    load_label_table,
    parse_label_table,
)


def test_the_brain_table_is_whole() -> None:
    table = load_label_table("brain")
    assert [s.value for s in table] == list(range(1, 31))
    assert len({s.name for s in table}) == 30
    assert len(list(table.pairs())) == 13
    for left, right in table.pairs():
        assert left.name.removeprefix("left ") == right.name.removeprefix("right ")
        assert left.code == right.code
    assert table.channel_def["0"] == "background"
    assert table.by_name["left hippocampus"].code == Code("5366008", "Hippocampus")


def test_a_table_of_names_alone_gets_colours_and_codes() -> None:
    table = parse_label_table(
        {"name": "mine", "structures": [{"name": "liver"}, {"name": "kidney", "paired": True}]}
    )
    assert [s.name for s in table] == ["liver", "left kidney", "right kidney"]
    assert table.structures[0].code == Code("LIVER", "liver", "99MEDVIT")
    assert len({s.color for s in table}) == 2
    assert table.structures[1].color == table.structures[2].color


def test_gaps_and_unknown_tables_are_refused() -> None:
    liver = Structure(2, "liver", (1, 2, 3), Code("1", "x"), Code("1", "x"))
    with pytest.raises(MedvitError, match="without a gap"):
        LabelTable("odd", (liver,))
    with pytest.raises(MedvitError, match="no label table named 'nothing'"):
        load_label_table("nothing")


def test_values_of_files_are_kept_beside_those_of_the_table() -> None:
    content = {"name": "mine", "structures": [{"name": "liver"}, {"name": "cyst", "stored": 4}]}
    table = parse_label_table(content)
    assert [s.value for s in table] == [1, 2] and table.file_names == {1: "liver", 4: "cyst"}
    np.testing.assert_array_equal(table.to_files(np.array([0, 1, 2], np.uint8)), [0, 1, 4])
    assert parse_label_table(table.as_dict()) == table
    with pytest.raises(MedvitError, match="two structures are stored under one value"):
        parse_label_table({"name": "mine", "structures": [{"name": "liver", "stored": 2}, {"name": "cyst"}]})


def test_a_group_of_which_nothing_was_found_is_left_out_where_another_has_something() -> None:
    table = load_label_table("hippocampus")
    sided = ["left hippocampal head", "right hippocampal head"]
    sided += ["left hippocampal body and tail", "right hippocampal body and tail"]
    assert [s.name for s in table] == ["hippocampal head", "hippocampal body and tail", *sided]
    assert [s.name for s in table.shown({1})] == ["hippocampal head", "hippocampal body and tail"]
    assert [s.name for s in table.shown({0, 3, 5})] == sided
    assert table.shown(set()) == table.structures
    assert parse_label_table(table.as_dict()) == table
    assert load_label_table("brain").shown({1}) == load_label_table("brain").structures


def test_structures_are_chosen_by_name_with_or_without_their_side() -> None:
    table = load_label_table("brain")
    names = [s.name for s in table.chosen(["Right_Amygdala", " hippocampus", "left hippocampus"])]
    assert names == ["left hippocampus", "right hippocampus", "right amygdala"]
    with pytest.raises(MedvitError, match=r"no structure 'hipocampus' \(did you mean 'hippocampus'"):
        table.chosen(["amygdala", "hipocampus"])


def test_values_are_kept_and_all_others_become_background() -> None:
    kept = keep_values(np.array([0, 1, 2, 3, 2], np.uint8), [2], 3)
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept, [0, 0, 2, 0, 2])
