"""A page written again so that a simple parser reads it as browsers do.

Source: HTML standard, "Optional tags".
"""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

UNSHOWN = ("title", "script", "style", "noscript", "template", "svg", "iframe", "object", "canvas")
VOID = (
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr",
)  # fmt: skip
BLOCKS = (
    "address", "article", "aside", "blockquote", "details", "div", "dl", "fieldset", "figcaption", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "nav", "ol", "p", "pre",
    "section", "table", "ul",
)  # fmt: skip
CELLS, ROWS = frozenset(("td", "th")), frozenset(("td", "th", "tr"))
GROUPS = ROWS | {"thead", "tbody", "tfoot", "caption", "colgroup"}
TABLE = frozenset(("table",))
# What a start tag ends, and what keeps it from looking further out.
IMPLIED = {
    "body": (frozenset(("head",)), frozenset[str]()),
    "li": (frozenset(("li", "p")), frozenset(("ul", "ol", "menu"))),
    "dt": (frozenset(("dt", "dd", "p")), frozenset(("dl",))),
    "dd": (frozenset(("dt", "dd", "p")), frozenset(("dl",))),
    "option": (frozenset(("option",)), frozenset(("select",))),
    "td": (CELLS, frozenset(("tr", "table"))),
    "th": (CELLS, frozenset(("tr", "table"))),
    "tr": (ROWS, TABLE),
    **dict.fromkeys(("thead", "tbody", "tfoot"), (GROUPS, TABLE)),
    **{name: (frozenset(("p",)), GROUPS | TABLE | {"button"}) for name in BLOCKS},
}
TITLE_CHARS, ATTRIBUTE_CHARS = 1000, 2048


class Tidy(HTMLParser):
    """Writes a page again so that a simple parser reads it as browsers do: ends that may be left out are
    there, nothing is nested too deeply, what nobody sees is gone, and links are absolute."""

    def __init__(self, url: str, depth_max: int) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self._base, self._depth_max = url, depth_max
        self._written: list[str] = []
        self._open: list[str] = []
        self._hidden, self._hidden_depth = "", 0  # inside of what nobody sees

    def html(self) -> str:
        return "".join([*self._written, *(f"</{name}>" for name in reversed(self._open))])

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if self._hidden == "title" and name == "body":  # it has no end
            self._hidden = ""
        if self._hidden:
            self._hidden_depth += name == self._hidden
            return
        if name in UNSHOWN:
            self._hidden, self._hidden_depth = name, 1
            return
        given = dict(attributes)
        if name == "base" and given.get("href"):
            self._base = absolute(self._base, given["href"]) or self._base
        closes, scope = IMPLIED.get(name, (frozenset(), frozenset()))
        self._end_implied(closes, scope)
        if name not in VOID:
            if len(self._open) >= self._depth_max:
                return  # its words belong to the innermost element
            self._open.append(name)
        self._written.append(f"<{name}{self._kept(given)}>")

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(name, attributes)
        if name not in VOID:
            self.handle_endtag(name)

    def handle_endtag(self, name: str) -> None:
        if self._hidden:
            self._hidden_depth -= name == self._hidden
            if not self._hidden_depth:
                self._hidden = ""
        elif name in self._open:
            self._end(len(self._open) - 1 - self._open[::-1].index(name))

    def handle_data(self, text: str) -> None:
        if self._hidden == "title" and sum(map(len, self.title)) < TITLE_CHARS:
            self.title.append(text)
        elif not self._hidden:
            self._written.append(escape(text))

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """`<![if IE]>`: of no interest, and some of them are an error to the standard library."""
        end = self.rawdata.find(">", i)
        return -1 if end < 0 else end + 1

    def _end_implied(self, closes: frozenset[str], scope: frozenset[str]) -> None:
        """A list item ends the one before it, a paragraph ends where a table begins, and so on."""
        keep = len(self._open)
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index] in scope:
                break
            if self._open[index] in closes:
                keep = index
        self._end(keep)

    def _end(self, keep: int) -> None:
        while len(self._open) > keep:
            self._written.append(f"</{self._open.pop()}>")

    def _kept(self, given: dict[str, str | None]) -> str:
        kept = ""
        for name in ("href", "src", "alt", "title", "start", "colspan"):
            value = given.get(name)
            if value and name in ("href", "src"):
                value = absolute(self._base, value)
            if value and len(value) <= ATTRIBUTE_CHARS:
                kept += f' {name}="{escape(value)}"'
        return kept


def absolute(base: str, link: Any) -> str:
    try:
        whole = urljoin(base, str(link or ""))
    except ValueError:
        return ""
    return whole if whole.startswith(("http://", "https://", "mailto:")) else ""
