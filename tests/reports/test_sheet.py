"""Pages that fill from top to bottom: what belongs together stays together, and every sign is printable."""

from __future__ import annotations

import pytest

from medvit.reports.sheet import Sheet

ROWS = [("Weights", "ab" * 100), ("Software", "medvit 0.1.0"), ("Settings", "overlap 0.25, " * 30)]


@pytest.fixture
def sheet() -> Sheet:
    return Sheet("A report", "For research use only.", "Page", "en")


def test_a_heading_goes_with_what_follows_it(sheet: Sheet) -> None:
    height = sheet.height_of_pairs(ROWS)
    sheet.set_y(sheet.h - sheet.b_margin - 14 - height - 1)
    sheet.heading("How it was made", height)
    top = sheet.y
    sheet.pairs(ROWS)
    assert sheet.page_no() == 1
    assert sheet.y - top == pytest.approx(height)

    sheet.set_y(sheet.h - sheet.b_margin - 14 - height + 1)
    sheet.heading("How it was made", height)
    sheet.pairs(ROWS)
    assert sheet.page_no() == 2


def test_a_table_repeats_its_header_on_every_page(sheet: Sheet) -> None:
    heads: list[int] = []
    usual = sheet._table_head
    sheet._table_head = lambda *given: (heads.append(sheet.page_no()), usual(*given))[1]  # type: ignore[method-assign]
    sheet.rows(["structure", "ml"], [(f"structure {n}", f"{n}") for n in range(120)], [60.0, 20.0])
    assert heads == list(range(1, sheet.page_no() + 1)) == [1, 2, 3]


def test_signs_without_a_font_are_left_out_or_marked(sheet: Sheet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvit.reports.sheet.cjk_font", lambda: None)
    assert sheet.printable("Müller, Ångström") == "Müller, Ångström"
    assert sheet.printable("Wang, XiaoDong (王 小東)") == "Wang, XiaoDong"
    assert sheet.printable("王 T1") == "? T1"
