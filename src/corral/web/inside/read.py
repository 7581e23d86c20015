"""From bytes to text: characters, HTML as Markdown, PDFs."""

from __future__ import annotations

import codecs
import io
import logging
import re
from typing import Any

from .failed import Failed
from .tidy import Tidy

NO_TEXT_CODECS = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "unicode-escape")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decoded(body: bytes, declared: str) -> str:
    """As browsers do: a mark at the begin, what the header and the page say, UTF-8, Windows-1252."""
    for mark, encoding in MARKS:
        if body.startswith(mark):
            return body.decode(encoding, "replace")
    said = re.search(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{1,40})", declared, re.IGNORECASE)
    told = re.search(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", body[:4096], re.I)
    told = told or re.match(rb"<\?xml[^>]{0,100}?encoding=[\"']([A-Za-z0-9_.:-]{1,40})", body)
    for name in (said and said[1], told and told[1].decode()):
        codec = known(name)
        if codec is not None:
            return body.decode(codec, "replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        # Cut in the middle of a letter is no other encoding.
        return body.decode("utf-8" if error.start > len(body) - 4 else "cp1252", "replace")


def known(name: str | None) -> str | None:
    """A codec of text by the name that a page gave it."""
    if not name or name.lower() in NO_TEXT_CODECS:
        return None
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    if not found._is_text_encoding or found.name.replace("_", "-") in NO_TEXT_CODECS:
        return None
    return "cp1252" if found.name in ("iso8859-1", "ascii") else found.name


def clean(text: str) -> str:
    """Without what no text has: NUL, and halves of pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def markdown(source: str, url: str, bounds: dict[str, Any]) -> tuple[str, str, bool]:
    """(title, text, whether something is missing)."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    page = Tidy(url, bounds["depth"])
    page.feed(source[: bounds["html_chars"]])
    page.close()
    soup = BeautifulSoup(page.html(), "html.parser")
    text = MarkdownConverter(heading_style="ATX", bullets="-").convert_soup(soup)
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return "".join(page.title), text, len(source) > bounds["html_chars"]


def pdf(body: bytes, bounds: dict[str, Any]) -> tuple[str, str, bool]:
    from pypdf import PdfReader

    logging.disable(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(body), strict=False)
        pages: list[str] = []
        room = bounds["pdf_chars"]
        for page in reader.pages:
            if room < 0 or len(pages) == bounds["pdf_pages"]:
                return title_of(reader), "\n\n".join(pages), True
            pages.append(page.extract_text())
            room -= len(pages[-1])
        return title_of(reader), "\n\n".join(pages), False
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # a broken PDF breaks its reader in every way there is
        raise Failed(
            "unsupported_content_type", f"the PDF cannot be read: {type(error).__name__}"
        ) from None


def title_of(reader: Any) -> str:
    try:
        return str((reader.metadata and reader.metadata.title) or "")
    except Exception:  # as above; it is only a title
        return ""
