"""Read an HTML page strictly: every element closed in order, no script, nothing from outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "col"}
ADDRESSES = {"src", "href", "srcset", "action", "xlink:href", "data", "poster"}


@dataclass
class Page:
    """What a page holds."""

    elements: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that a reader sees."""
        return "".join(self.texts)

    def cells(self, first: str) -> list[str]:
        """Return the cells of the only table row that begins with a text."""
        (row,) = [row for table in self.tables for row in table if row and row[0] == first]
        return row


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        assert not ADDRESSES & set(names), f"<{tag}> refers to another file"
        assert not [name for name in names if name.startswith("on")], f"<{tag}> runs code"
        self.page.elements[tag] += 1
        self.page.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "table":
            self.page.tables.append([])
        elif tag == "tr":
            self.page.tables[-1].append([])
        elif tag in ("td", "th"):
            self.page.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.page.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.page.tables[-1][-1][-1] += data


def read_page(html: str) -> Page:
    """Return what a page holds, once it is well-formed and stands by itself."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [], f"not closed: {reader.open}"
    page = reader.page
    for tag in ("script", "link", "img", "iframe", "object", "base", "form"):
        assert page.elements[tag] == 0, f"the page has <{tag}>"
    assert len(page.ids) == len(set(page.ids)), "two elements share an id"
    return page
