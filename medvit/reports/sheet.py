"""Pages of a PDF that fill from top to bottom: text, tables and pictures, laid out by fpdf2."""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

from fpdf import FPDF, XPos, YPos
from fpdf.fonts import TTFFont
from fpdf.util import Padding

from medvit.reports.content import Figure

MARGIN = 15.0
WIDTH = 210.0 - 2 * MARGIN
INK, SOFT, LINE, TINT, ACCENT = "#1b2430", "#4d5866", "#cfd6de", "#f3f6f9", "#0b4f8a"
MM_PER_POINT = 25.4 / 72
# Font families with Chinese, Japanese and Korean, searched for among the fonts of the system.
CJK_FAMILIES = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Micro Hei")


@cache
def cjk_font() -> Path | None:
    """A font with Chinese, Japanese and Korean characters, from ``medvit[cjk]`` or the system."""
    with suppress(ModuleNotFoundError):
        return Path(str(files("noto_cjk_sans_jp_regular") / "NotoSansCJKjp-Regular.otf"))
    from matplotlib import font_manager

    known = {f.name: Path(f.fname) for f in font_manager.fontManager.ttflist}
    return next((known[name] for name in CJK_FAMILIES if name in known), None)


class Sheet(FPDF):
    """A4 pages, numbered, with a notice at the foot of each; all lengths in mm.

    Parameters
    ----------
    title
        Title in the properties of the document.
    notice, page_word
        Text at the foot of each page, and the word before its number.
    language
        Code of the language of the text.
    """

    def __init__(self, title: str, notice: str, page_word: str, language: str) -> None:
        super().__init__(unit="mm", format="A4")
        self.notice, self.page_word = notice, page_word
        self.set_margin(MARGIN)
        self.set_auto_page_break(True, 20)
        self.set_lang(language)
        self.set_title(title)
        self.set_creator("medvit")
        # A fixed date, so that equal studies have equal reports.
        self.set_creation_date(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        self._use_fonts()
        self.add_page()

    def _use_fonts(self) -> None:
        from matplotlib import get_data_path

        folder = Path(get_data_path()) / "fonts" / "ttf"
        self.add_font("body", "", folder / "DejaVuSans.ttf")
        self.add_font("body", "B", folder / "DejaVuSans-Bold.ttf")
        self.set_font("body", size=9)
        self._known = self._signs("body")

    def _signs(self, family: str) -> frozenset[int]:
        font = self.fonts[family]
        return frozenset(font.cmap) if isinstance(font, TTFFont) else frozenset()

    def printable(self, text: str) -> str:
        """`text` without characters that no font has, so that none is printed as a box.

        The font with Chinese, Japanese and Korean characters is loaded at the first such character.
        """
        if all(ord(sign) in self._known or sign == "\n" for sign in text):
            return text
        if "cjk" not in self.fonts and (font := cjk_font()) is not None:
            for style in ("", "B"):
                self.add_font("cjk", style, font)
            self.set_fallback_fonts(["cjk"], exact_match=False)
            self._known |= self._signs("cjk")
        kept = "".join(sign if ord(sign) in self._known or sign == "\n" else "\0" for sign in text)
        return re.sub(r" ?\([\0 ,]*\0[\0 ,]*\)", "", kept).replace("\0", "?") if "\0" in kept else kept

    def footer(self) -> None:
        """Notice and page number."""
        self.set_y(-15)
        self._style(6.5, SOFT)
        self.multi_cell(WIDTH - 25, 2.8, self.printable(self.notice), align="L")
        self.set_xy(-MARGIN - 25, -15)
        self.cell(25, 2.8, f"{self.page_word} {self.page_no()} / {{nb}}", align="R")

    def _style(self, size: float, color: str = INK, *, bold: bool = False) -> None:
        self.set_font("body", "B" if bold else "", size)
        self.set_text_color(color)

    def need(self, height: float) -> None:
        """Start a new page unless `height` is left on this one."""
        if self.will_page_break(height):
            self.add_page()

    def paragraph(
        self, text: str, size: float = 9, color: str = INK, *, indent: float = 0, bold: bool = False
    ) -> None:
        """Text broken into lines."""
        self._style(size, color, bold=bold)
        self.set_x(MARGIN + indent)
        height = size * MM_PER_POINT * 1.4
        self.multi_cell(
            WIDTH - indent, height, self.printable(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT
        )

    def heading(self, text: str, below: float = 16.0) -> None:
        """Title of a section, on the page of the `below` mm that follow it."""
        self.need(14 + below)
        self.ln(3)
        self.paragraph(text, 12, bold=True)
        self.set_draw_color(ACCENT)
        self.set_line_width(0.4)
        self.line(MARGIN, self.y + 0.6, MARGIN + WIDTH, self.y + 0.6)
        self.ln(2.5)

    def notice_box(self, text: str) -> None:
        """Text on a warm ground, with an edge."""
        self._style(9)
        self.set_fill_color("#fff6dc")
        self.set_draw_color("#b98b00")
        self.set_line_width(0.15)
        self.multi_cell(
            WIDTH, 4.6, self.printable(text), border=1, fill=True, align="L",
            new_x=XPos.LMARGIN, new_y=YPos.NEXT, padding=Padding(1.2, 1.2, 1.2, 1.2),
        )  # fmt: skip
        self.ln(2)

    def lamp(self, color: str, text: str, beside: str) -> None:
        """A round lamp, its meaning in bold, and a sentence beside it."""
        self.set_fill_color(color)
        self.set_draw_color("#333333")
        self.set_line_width(0.15)
        self.ellipse(MARGIN, self.y, 5, 5, style="DF")
        start = self.y + 0.3
        self.set_xy(MARGIN + 8, start)
        self._style(11, bold=True)
        self.cell(self.get_string_width(text) + 4, 4.6, text)
        left = self.x
        self._style(9)
        self.set_xy(left, start)
        self.multi_cell(
            MARGIN + WIDTH - left, 4.6, self.printable(beside), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT
        )
        self.ln(2)

    def height_of_pairs(self, rows: Iterable[tuple[str, str]]) -> float:
        """Height that `pairs` takes for these rows."""
        self._style(8.5)
        return sum(4.5 * self._line_count(self.printable(text), WIDTH - 52) for _, text in rows)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Headings on the left, texts on the right."""
        for key, text in rows:
            self.need(5)
            top = self.y
            self._style(8.5, SOFT)
            self.cell(52, 4.5, self.printable(key))
            self.set_xy(MARGIN + 52, top)
            self._style(8.5)
            self.multi_cell(
                WIDTH - 52, 4.5, self.printable(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT
            )

    def rows(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[str]],
        widths: Sequence[float],
        *,
        colors: Sequence[str] = (),
        text_columns: int = 1,
    ) -> None:
        """A table under a header that every page repeats.

        Parameters
        ----------
        widths
            Width of each column.
        colors
            Swatch of each row, or nothing.
        text_columns
            Number of columns, from the left, that are aligned to the left.
        """
        aligned = ["L" if i < text_columns else "R" for i in range(len(widths))]
        self._table_head(header, widths, aligned)
        for i, row in enumerate(rows):
            if self.will_page_break(4.6):
                self.add_page()
                self._table_head(header, widths, aligned)
            if colors:
                self.set_fill_color(colors[i])
                self.set_draw_color("#55606c")
                self.set_line_width(0.1)
                self.rect(MARGIN, self.y + 0.8, 2.6, 2.6, style="DF")
            self._style(8)
            self._cells(row, widths, aligned, indent=4.0 if colors else 0.0)
            self.set_draw_color(LINE)
            self.line(MARGIN, self.y, MARGIN + sum(widths), self.y)
        self.ln(1.5)

    def _cells(
        self, row: Sequence[str], widths: Sequence[float], aligned: Sequence[str], *, indent: float
    ) -> None:
        x = MARGIN
        for column, (text, width, align) in enumerate(zip(row, widths, aligned, strict=True)):
            inset = indent if column == 0 else 0.0
            self.set_xy(x + inset, self.y)
            shown = self.printable(text)
            size = self.font_size_pt
            while self.get_string_width(shown) > width - inset - 1.6 and self.font_size_pt > 5:
                self.set_font_size(self.font_size_pt - 0.5)
            self.cell(width - inset, 4.4, shown, align=align)
            self.set_font_size(size)
            x += width
        self.set_xy(MARGIN, self.y + 4.4)

    def _table_head(self, header: Sequence[str], widths: Sequence[float], aligned: Sequence[str]) -> None:
        """Headings on a tinted ground, in as many lines as the longest one needs."""
        self.need(20)
        self._style(7.5, bold=True)
        texts = [self.printable(text) for text in header]
        columns = list(zip(texts, widths, aligned, strict=True))
        counts = [self._line_count(text, width) for text, width, _ in columns]
        top, height = self.y, 3.4 * max(counts) + 1.4
        self.set_fill_color(TINT)
        self.rect(MARGIN, top, sum(widths), height, style="F")
        x = MARGIN
        for text, width, align in columns:
            self.set_xy(x, top + 0.7)
            self.multi_cell(width, 3.4, text, align=align)
            x += width
        self.set_xy(MARGIN, top + height)

    def _line_count(self, text: str, width: float) -> int:
        lines = self.multi_cell(width, 3.4, text, dry_run=True, output="LINES")
        assert isinstance(lines, list), "fpdf2 returns a list of lines here"
        return len(lines)

    def legend(self, entries: Sequence[tuple[str, str]], columns: int = 4) -> None:
        """Swatches with names, in columns."""
        for start in range(0, len(entries), columns):
            self.need(4.5)
            top = self.y
            for i, (color, name) in enumerate(entries[start : start + columns]):
                x = MARGIN + i * WIDTH / columns
                self.set_fill_color(color)
                self.set_draw_color("#55606c")
                self.set_line_width(0.1)
                self.rect(x, top + 0.5, 2.8, 2.8, style="DF")
                self._style(7.5)
                self.set_xy(x + 4, top)
                self.cell(WIDTH / columns - 4, 3.8, self.printable(name))
            self.set_xy(MARGIN, top + 4.2)
        self.ln(2)

    def figures(self, figures: Sequence[Figure], columns: int, width: float = WIDTH) -> None:
        """Pictures side by side with their captions; a row goes to the next page when it does not fit."""
        gap = 3.0
        each = (width - gap * (columns - 1)) / columns
        for start in range(0, len(figures), columns):
            row = figures[start : start + columns]
            heights = [each * f.picture.pixels.shape[0] / f.picture.pixels.shape[1] for f in row]
            self.need(max(heights) + 14)
            top, bottom = self.y, self.y
            for i, (figure, height) in enumerate(zip(row, heights, strict=True)):
                x = MARGIN + i * (each + gap)
                self.image(io.BytesIO(figure.picture.encode()), x, top, each, height, alt_text=figure.alt)
                self.set_xy(x, top + height + 1)
                self._style(7, SOFT)
                self.multi_cell(each, 3.2, self.printable(figure.caption), align="L")
                bottom = max(bottom, self.y)
            self.set_xy(MARGIN, bottom + 2)
