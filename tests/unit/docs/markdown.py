"""What the tests of the documentation need to know about a page: code blocks, links, anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block: its language, text and line."""

    language: str
    code: str
    line: int


def pages() -> list[Path]:
    """Every Markdown file that a reader may open."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(language=match[2], code=match[3], line=text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
    ]


def links(path: Path) -> Iterator[str]:
    """Targets of links outside of code."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", path.read_text()))
    yield from _LINK.findall(text)


def anchors(path: Path) -> set[str]:
    """The fragments that headings make, as GitHub writes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", path.read_text())):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        found.add(words.strip().replace(" ", "-"))
    return found
