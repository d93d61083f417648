"""What tests ask a page of HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects what a test asks about: images with alternative texts, outside links, open tags, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.outside: list[str] = []
        self.words: list[str] = []
        self.depth: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "img":
            self.images.append(named)
        if tag not in ("img", "meta", "br", "input", "link"):
            self.depth.append(tag)
        for key in ("src", "href"):
            if (value := named.get(key)) and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.depth.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))
