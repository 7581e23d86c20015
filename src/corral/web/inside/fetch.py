"""Gets what it is told to get, and answers with what can be read there.

Its argument, JSON: {"door": fd, "libraries": directories, "bounds": {...}}. Then on stdin, a line each,
{"url", "scheme", "host", "port", "target"}: what to get next. Each is answered by one line on stdout:

{"redirect": location}                                    whoever asked decides whether to go there
{"type", "kind", "title", "text", "is_cut"}               the page; kind: "html", "pdf" or "text"
{"failed": one of the tool's error codes, "detail": text}
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import ssl
import sys
import zlib
from typing import Any
from urllib.parse import urljoin

from corral.confine.door import let_in

from .failed import Failed
from .read import clean, decoded, markdown, pdf

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
CHUNK = 64 * 1024


def main() -> None:
    asked = json.loads(sys.argv[1])
    sys.path += asked["libraries"]
    bounds = asked["bounds"]
    keep_within(bounds)
    sys.setrecursionlimit(20 * bounds["depth"])  # converters call themselves some times per element
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what stands there is bwrap's: why it did not start
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
        sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()


def keep_within(bounds: dict[str, Any]) -> None:
    """Whatever takes this process over: it starts no other, no thread, and writes no file."""
    for limit, value in (
        (resource.RLIMIT_AS, bounds["memory_bytes"]),
        (resource.RLIMIT_CPU, bounds["cpu_seconds"]),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def get(asked: dict[str, Any], proxy: int, bounds: dict[str, Any]) -> dict[str, Any]:
    timeout = bounds["stall_seconds"]
    if asked["scheme"] == "https":
        context = ssl.create_default_context(cafile=AUTHORITIES)
        connection: Any = http.client.HTTPSConnection("127.0.0.1", proxy, timeout=timeout, context=context)
        connection.set_tunnel(asked["host"], asked["port"])
        target = asked["target"]
    else:
        connection = http.client.HTTPConnection("127.0.0.1", proxy, timeout=timeout)
        target = asked["url"]  # a proxy is asked for it whole
    try:
        headers = {
            "User-Agent": bounds["user_agent"],
            "Accept": ACCEPT,
            "Accept-Encoding": "gzip, deflate",
            "Connection": "close",
        }
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        location = response.headers.get("location")
        if response.status in REDIRECTS and location:
            with contextlib.suppress(UnicodeError):  # headers are Latin-1 to the library, URLs are UTF-8
                location = location.encode("latin-1").decode()
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
