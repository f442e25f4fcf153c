"""A report page taken apart: elements, scripts, sections and tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

WINDOWS = {"phone": (390, 844), "tablet": (768, 1024), "desktop": (1280, 900)}


class Elements(HTMLParser):
    """Every element of a page with its attributes, the content of its scripts, and its table rows as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag in {"script", "td", "th"}:
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside:
            self.rows[-1][-1] += data.strip()

    def tags(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.found)


def data_of(text: str) -> Any:
    """The page's charts and sample."""
    return json.loads(Elements(text).scripts[0])


def section(text: str, name: str) -> str:
    """The markup of a section; empty where it is left out."""
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def words(text: str, name: str) -> str:
    """A section of the page as words."""
    return " ".join(re.sub(r"<[^>]*>", " ", section(text, name)).split())
