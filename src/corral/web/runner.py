"""What fetches and reads pages inside a throw-away sandbox. Its source is handed to the sandbox's Python:
standard library, the libraries bound for it, and nothing of ours.

One argument, JSON: {"door": fd, "libraries": [directory, ...], "bounds": {...}}. Then on stdin, a line
each, {"url", "scheme", "host", "port", "target"}: what to get next. Each is answered by one line on stdout:

{"redirect": location}                                    whoever asked decides whether to go there
{"type", "kind", "title", "text", "is_cut"}               the page; kind: "html", "pdf" or "text"
{"failed": one of the tool's error codes, "detail": text}

Everything that comes from the network is hostile. What keeps it in is the sandbox: this file only has to be
bounded, and to fail with a sentence.
"""

from __future__ import annotations

import codecs
import http.client
import io
import json
import os
import re
import resource
import socket
import ssl
import sys
import zlib
from typing import Any
from urllib.parse import urljoin

AUTHORITIES = "/run/corral/authorities.pem"
ACCEPT = "text/html,application/xhtml+xml,application/pdf;q=0.9,text/*;q=0.8,*/*;q=0.5"
HTML = ("text/html", "application/xhtml+xml")
TEXTUAL = (
    "application/json",
    "application/javascript",
    "application/sql",
    "application/toml",
    "application/x-ndjson",
    "application/x-yaml",
    "application/xml",
    "application/yaml",
)
REDIRECTS = (301, 302, 303, 307, 308)
UNSHOWN = ("script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "head")
NO_TEXT_CODECS = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "unicode-escape")
CHUNK = 64 * 1024
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Failed(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def main(asked: dict[str, Any]) -> None:
    bounds = asked["bounds"]
    for limit, value in (
        (resource.RLIMIT_AS, bounds["memory_bytes"]),
        (resource.RLIMIT_CPU, bounds["cpu_seconds"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what stands there is bwrap's: why it did not start
    sys.path += asked["libraries"]
    proxy = let_in(asked["door"])
    for line in sys.stdin:
        try:
            answer = get(json.loads(line), proxy, bounds)
        except Failed as error:
            answer = {"failed": error.code, "detail": str(error)}
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
            answer = {"failed": "url_not_accessible", "detail": f"TLS: {reason}"}
        except (OSError, http.client.HTTPException) as error:
            answer = {"failed": "url_not_accessible", "detail": f"{type(error).__name__}: {error}"[:200]}
        except (MemoryError, RecursionError):
            answer = {"failed": "content_too_large", "detail": "the page takes too much memory to read"}
        except Exception as error:  # parsers break on hostile pages in ways that they do not document
            detail = f"the page cannot be read: {type(error).__name__}"
            answer = {"failed": "unsupported_content_type", "detail": detail}
        print(json.dumps(answer), flush=True)


def let_in(door: int) -> int:
    """Hand a listening socket to the host, through the descriptor `door`; returns its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.socket(fileno=door) as host:
        socket.send_fds(host, [b"listen"], [listener.fileno()])
        host.recv(1)
    return int(listener.getsockname()[1])


def get(asked: dict[str, Any], proxy: int, bounds: dict[str, Any]) -> dict[str, Any]:
    timeout = bounds["stall_seconds"]
    if asked["scheme"] == "https":
        context = ssl.create_default_context(cafile=AUTHORITIES)
        connection: Any = http.client.HTTPSConnection("127.0.0.1", proxy, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", proxy, timeout=timeout)
    connection.set_tunnel(asked["host"], asked["port"])
    try:
        headers = {
            "User-Agent": bounds["user_agent"],
            "Accept": ACCEPT,
            "Accept-Encoding": "gzip, deflate",
            "Connection": "close",
        }
        connection.request("GET", asked["target"], headers=headers)
        response = connection.getresponse()
        location = response.headers.get("location")
        if response.status in REDIRECTS and location:
            return {"redirect": urljoin(asked["url"], location)[: bounds["url_chars"] + 1]}
        if response.status != 200:
            raise Failed("url_not_accessible", f"the server answered HTTP {response.status}")
        declared = response.headers.get("content-type", "")
        kind, media_type = kind_of(declared)
        body = read(response, bounds)
    finally:
        connection.close()
    if kind == "unknown":
        kind, media_type = sniffed(body)
    page: dict[str, Any] = {"type": media_type, "kind": kind, "title": "", "is_cut": False}
    if kind == "html":
        page["title"], page["text"], page["is_cut"] = markdown(
            decoded(body, declared), asked["url"], bounds
        )
    elif kind == "pdf":
        page["title"], page["text"], page["is_cut"] = pdf(body, bounds)
    else:
        page["text"] = decoded(body, declared)
    room = bounds["pdf_chars"] if kind == "pdf" else bounds["text_chars"]
    page["is_cut"] = page["is_cut"] or len(page["text"]) > room
    page["text"], page["title"] = clean(page["text"][:room]), " ".join(clean(page["title"]).split())[:300]
    return page


def kind_of(declared: str) -> tuple[str, str]:
    """("html" | "pdf" | "text" | "unknown", media type). Raises Failed for what is no text."""
    media_type = declared.partition(";")[0].strip().lower()
    if media_type in HTML:
        return "html", media_type
    if media_type in ("application/pdf", "application/x-pdf"):
        return "pdf", media_type
    if media_type in ("", "application/octet-stream", "binary/octet-stream"):
        return "unknown", media_type
    if media_type.startswith("text/") or media_type in TEXTUAL or media_type.endswith(("+json", "+xml")):
        return "text", media_type
    raise Failed("unsupported_content_type", f"the content is {media_type[:100]!r}: neither text nor PDF")


def sniffed(body: bytes) -> tuple[str, str]:
    """For what no type was declared of."""
    if body.startswith(b"%PDF-"):
        return "pdf", "application/pdf"
    head = body[:1024].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "html", "text/html"
    if b"\0" in body[:CHUNK]:
        raise Failed("unsupported_content_type", "the content is binary")
    return "text", "text/plain"


def read(response: http.client.HTTPResponse, bounds: dict[str, Any]) -> bytes:
    """The body, unpacked, within bounds however it was packed."""
    most = bounds["body_bytes"]
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        unpack: Any = zlib.decompressobj(16 + zlib.MAX_WBITS)
    elif encoding == "deflate":
        unpack = zlib.decompressobj()
    elif encoding in ("", "identity"):
        unpack = None
    else:
        raise Failed("unsupported_content_type", f"the content is packed with {encoding[:50]!r}")
    too_large = Failed("content_too_large", f"the content has more than {most} bytes")
    if (response.length or 0) > most:
        raise too_large
    body = bytearray()
    is_first = True
    while chunk := response.read(CHUNK):
        if unpack is None:
            body += chunk
        else:
            try:
                body += unpack.decompress(chunk, most + 1 - len(body))
            except zlib.error as error:
                if encoding != "deflate" or not is_first:
                    raise Failed("url_not_accessible", f"the content cannot be unpacked: {error}") from None
                unpack = zlib.decompressobj(-zlib.MAX_WBITS)  # some send it without its header
                body += unpack.decompress(chunk, most + 1 - len(body))
            if unpack.unconsumed_tail:
                raise too_large
        is_first = False
        if len(body) > most:
            raise too_large
    return bytes(body)


# -- characters ---------------------------------------------------------------------------------------


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


# -- pages --------------------------------------------------------------------------------------------


def markdown(source: str, url: str, bounds: dict[str, Any]) -> tuple[str, str, bool]:
    """(title, text, whether something is missing)."""
    from bs4 import BeautifulSoup, Comment
    from markdownify import MarkdownConverter

    is_cut = len(source) > bounds["html_chars"]
    soup = BeautifulSoup(source[: bounds["html_chars"]], "html.parser")
    title = soup.title.get_text() if soup.title else ""
    base = soup.find("base", href=True)
    here = urljoin(url, str(base["href"])) if base else url
    for element in soup.find_all(UNSHOWN):
        element.extract()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    for element, name in [(e, "href") for e in soup.find_all("a")] + [
        (e, "src") for e in soup.find_all("img")
    ]:
        element[name] = absolute(here, element.get(name))
    if is_deep(soup, bounds["depth"]):
        text = soup.get_text("\n", strip=True)
    else:
        text = MarkdownConverter(heading_style="ATX", bullets="-").convert_soup(soup)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return title, re.sub(r"\n{3,}", "\n\n", text).strip(), is_cut


def absolute(base: str, link: Any) -> str:
    try:
        whole = urljoin(base, str(link or ""))
    except ValueError:
        return ""
    return whole if whole.startswith(("http://", "https://", "mailto:")) else ""


def is_deep(soup: Any, depth_max: int) -> bool:
    """Whether elements lie deeper in each other than a converter that calls itself can go."""
    level, depth = [soup], 0
    while level:
        level = [child for node in level for child in getattr(node, "contents", ()) if child.name]
        depth += 1
        if depth > depth_max:
            return True
    return False


def pdf(body: bytes, bounds: dict[str, Any]) -> tuple[str, str, bool]:
    import logging

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


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
