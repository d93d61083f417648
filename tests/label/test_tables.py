"""Label tables of bundles: their own, or one made of the names of their channels."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.label.tables import label_table, named_table
from tests.label.phantoms import TABLE, make_bundle, make_restorer


@pytest.mark.parametrize("names", [{"0": "background", "1": "a", "4": "b"}, {"1": "a"}, {}])
def test_labels_with_gaps_are_refused_with_the_file(names: dict[str, str], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "gaps", table="", channel_def=names, state={})
    with pytest.raises(MedvitError, match=r"metadata\.json.*without a gap"):
        label_table(Bundle(bundle))


def test_metadata_that_contradicts_its_table_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "other", channel_def={"0": "background", "1": "liver"}, state={})
    with pytest.raises(MedvitError, match="channel_def is not the label table"):
        label_table(Bundle(bundle))


def test_a_known_name_keeps_its_code() -> None:
    brain_stem = TABLE.by_name["brain-stem"]
    table = named_table("t", ["tumour", "Brain-Stem"], TABLE.by_name)
    assert [s.name for s in table] == ["tumour", "Brain-Stem"]
    assert [s.value for s in table] == [1, 2]
    assert table.structures[1].code == brain_stem.code and table.structures[0].code != brain_stem.code


def test_the_table_is_the_one_that_is_named_or_that_of_the_channels(tmp_path: Path) -> None:
    assert label_table(Bundle(make_bundle(tmp_path / "brain", state={}))) == TABLE
    channels = {"0": "background", "1": "Liver", "2": "spleen"}
    organs = make_bundle(tmp_path / "organs", table="", channel_def=channels, state={})
    found = label_table(Bundle(organs))
    assert found is not None and found.file_names == {1: "liver", 2: "spleen"}
    assert len({s.color for s in found}) == 2
    assert label_table(Bundle(make_restorer(tmp_path / "restorer"))) is None
