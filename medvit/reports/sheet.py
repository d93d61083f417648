"""Pages of a PDF that fill from top to bottom: text, tables and pictures placed in millimetres."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure as Page
from matplotlib.patches import Ellipse, Rectangle

from medvit.reports.content import Figure

A4 = (210.0, 297.0)
MARGIN = 15.0
WIDTH = A4[0] - 2 * MARGIN
INK, SOFT, LINE, TINT, ACCENT = "#1b2430", "#4d5866", "#cfd6de", "#f3f6f9", "#0b4f8a"
MM_PER_POINT = 25.4 / 72


class Sheet:
    """Pages that fill from top to bottom; all lengths in mm."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.turn()

    def turn(self) -> None:
        """Start a new page."""
        page = Page(figsize=(A4[0] / 25.4, A4[1] / 25.4))
        FigureCanvasPdf(page)
        self.pages.append(page)
        self.y = MARGIN

    def need(self, height: float) -> None:
        """Start a new page unless `height` is left on this one."""
        if self.y + height > A4[1] - MARGIN - 8:
            self.turn()

    def write(
        self, x: float, text: str, size: float = 9, color: str = INK, bold: bool = False, align: str = "left"
    ) -> None:
        """One line of text at `x` on the current line; does not move on."""
        self.pages[-1].text(
            x / A4[0], 1 - self.y / A4[1], text, fontsize=size, color=color, ha=align, va="top",
            fontweight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip

    def paragraph(self, text: str, size: float = 9, color: str = INK, indent: float = 0) -> None:
        """Text broken into lines."""
        for line in broken(text, WIDTH - indent, size):
            self.need(size * MM_PER_POINT * 1.4)
            self.write(MARGIN + indent, line, size, color)
            self.y += size * MM_PER_POINT * 1.4

    def heading(self, text: str) -> None:
        """Title of a section, never at the foot of a page."""
        self.need(30)
        self.y += 4
        self.write(MARGIN, text, 12, bold=True)
        self.y += 6
        self.rule(self.y, ACCENT, 1.2)
        self.y += 2.5

    def rule(self, y: float, color: str = LINE, width: float = 0.4) -> None:
        """A line across the page."""
        self.box(MARGIN, y, WIDTH, width * MM_PER_POINT, color)

    def box(self, x: float, y: float, width: float, height: float, color: str, edge: str = "none") -> None:
        """A filled box; `y` is its top."""
        self.pages[-1].add_artist(
            Rectangle(
                (x / A4[0], 1 - (y + height) / A4[1]), width / A4[0], height / A4[1],
                facecolor=color, edgecolor=edge, linewidth=0.4, transform=self.pages[-1].transFigure,
            )
        )  # fmt: skip

    def lamp(self, color: str, size: float = 5) -> None:
        """A round lamp at the left of the current line."""
        x, y = MARGIN + size / 2, self.y + size / 2
        self.pages[-1].add_artist(
            Ellipse(
                (x / A4[0], 1 - y / A4[1]), size / A4[0], size / A4[1],
                facecolor=color, edgecolor="#333333", transform=self.pages[-1].transFigure,
            )
        )  # fmt: skip

    def pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        """Headings on the left, texts on the right."""
        for key, text in rows:
            lines = broken(text, WIDTH - 52, 9)
            self.need(4.5 * len(lines[:4]))
            self.write(MARGIN, key, 9, SOFT)
            for line in lines:
                self.need(4.5)
                self.write(MARGIN + 52, line, 9)
                self.y += 4.5

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        edges: Sequence[float],
        colors: Sequence[str],
    ) -> None:
        """Rows under a header that every page repeats.

        `edges` are the right edges of the columns after the first; `colors` has the swatch of each row, or
        is empty.
        """
        self._table_head(header, edges)
        for i, row in enumerate(rows):
            page = len(self.pages)
            self.need(5.2)
            if len(self.pages) > page:
                self._table_head(header, edges)
            if colors:
                self.box(MARGIN, self.y + 0.4, 2.8, 2.8, colors[i], "#55606c")
            self._table_row(row, edges, 8, indent=4.2 if colors else 0)
            self.y += 4.4
            self.rule(self.y - 0.3)
            self.y += 0.6

    def _table_head(self, header: Sequence[str], edges: Sequence[float]) -> None:
        """Headings in two lines where they are long."""
        cells = [textwrap.fill(text, 11) for text in header]
        lines = 1 + max(text.count("\n") for text in cells)
        self.need(3.4 * lines + 12)
        self.box(MARGIN, self.y - 0.8, WIDTH, 3.4 * lines + 1.4, TINT)
        self._table_row(cells, edges, 7.5, bold=True)
        self.y += 3.4 * lines + 1

    def _table_row(
        self,
        cells: Sequence[str],
        edges: Sequence[float],
        size: float,
        *,
        bold: bool = False,
        indent: float = 0,
    ) -> None:
        self.write(MARGIN + indent, cells[0], size, bold=bold)
        for cell, edge in zip(cells[1:], edges, strict=True):
            self.write(MARGIN + edge, cell, size, bold=bold, align="right")

    def figure(self, figure: Figure, x: float, width: float, dark: bool = True) -> float:
        """A picture and its caption at `x` on the current line; returns the height, does not move on."""
        rows, columns = figure.picture.pixels.shape[:2]
        height = width * rows / columns
        page = self.pages[-1]
        axes = page.add_axes(
            (x / A4[0], 1 - (self.y + height) / A4[1], width / A4[0], height / A4[1]),
            facecolor="black" if dark else "white",
        )
        axes.imshow(figure.picture.pixels, aspect="auto", interpolation="none")
        axes.set_axis_off()
        start, self.y = self.y, self.y + height + 1
        for line in broken(figure.caption, width, 7):
            self.write(x, line, 7, SOFT)
            self.y += 3.2
        used, self.y = self.y - start, start
        return used

    def to_pdf(self, title: str, notice: str, page_word: str) -> bytes:
        """All pages, numbered, with a notice at the foot of each."""
        buffer = io.BytesIO()
        with PdfPages(buffer, metadata={"Title": title, "Creator": "medvit", "CreationDate": None}) as pdf:
            for number, page in enumerate(self.pages, 1):
                for i, line in enumerate(broken(notice, WIDTH - 25, 6.5)):
                    y = (11 - 2.8 * i) / A4[1]
                    page.text(MARGIN / A4[0], y, line, fontsize=6.5, color=SOFT, va="top", parse_math=False)
                foot = f"{page_word} {number} / {len(self.pages)}"
                page.text(1 - MARGIN / A4[0], 11 / A4[1], foot, fontsize=7, color=SOFT, ha="right", va="top")
                pdf.savefig(page)
        return buffer.getvalue()


def broken(text: str, width: float, size: float) -> list[str]:
    """Lines that fit `width` mm, at the mean width of the font's letters."""
    letters = max(8, int(width / (size * MM_PER_POINT * 0.53)))
    return textwrap.wrap(text, letters, break_long_words=True) or [""]
