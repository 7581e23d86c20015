"""A URL as the web tools understand it, and the URLs that a text mentions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

import idna

from corral.kernel.limits import WEB_URL_CHARS_MAX

__all__ = ["BadUrl", "WebUrl", "mentions", "web_url"]

_PORTS: Final = {"http": 80, "https": 443}
_SAFE: Final = "!#$%&'()*+,/:;=?@[]~"  # of RFC 3986, and what is escaped already
_CONTROLS: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_HOST: Final = re.compile(r"[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\]")
_MENTIONED: Final = re.compile(rf"https?://[^\s<>\"`{{}}|\\^]{{1,{WEB_URL_CHARS_MAX}}}", re.IGNORECASE)
_PUNCTUATION: Final = ".,;:!?'*_)]"  # what text puts after a URL; it may belong to it, too
_TRIMMED_MAX: Final = 4
_ASCII: Final = re.compile(r"[!-~]+")


class BadUrl(ValueError):
    """A URL that cannot be fetched, whoever asks. code: of the tool's documented errors."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class WebUrl:
    """An absolute HTTP or HTTPS URL, without a fragment. Equal texts ask for the same thing.

    host: lower case ASCII, without a trailing dot; an IPv6 address without its brackets.
    path: as sent, "/" at least, without the query.
    """

    text: str
    scheme: str
    host: str
    port: int
    path: str


def web_url(text: str) -> WebUrl:
    """Raises BadUrl. Nothing that carries a secret passes: no user, no password."""
    if len(text) > WEB_URL_CHARS_MAX:
        raise BadUrl("url_too_long", f"the URL has more than {WEB_URL_CHARS_MAX} characters")
    text = text.strip()
    if _CONTROLS.search(text):  # urlsplit drops line ends, and others read a backslash as a slash
        raise BadUrl("invalid_tool_input", "the URL has characters that no URL has")
    try:
        parts = urlsplit(text)
        port, name = parts.port, parts.hostname or ""
    except ValueError as error:
        raise BadUrl("invalid_tool_input", f"this is not a URL: {error}") from None
    if parts.scheme not in _PORTS:
        raise BadUrl("invalid_tool_input", "only http:// and https:// URLs can be fetched")
    if parts.username is not None or parts.password is not None:
        raise BadUrl("invalid_tool_input", "the URL must not contain a user name or password")
    host = _host(name)
    port = _PORTS[parts.scheme] if port is None else port
    shown = f"[{host}]" if ":" in host else host
    where = shown if port == _PORTS[parts.scheme] else f"{shown}:{port}"
    path = quote(parts.path, safe=_SAFE) or "/"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return WebUrl(
        text=f"{parts.scheme}://{where}{path}{query}", scheme=parts.scheme, host=host, port=port, path=path
    )


def _host(name: str) -> str:
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError as error:
            raise BadUrl("invalid_tool_input", f"the host name is not valid: {error}") from None
    host = name.lower().removesuffix(".")  # only now: other dots have become this one
    if not _HOST.fullmatch(f"[{host}]" if ":" in host else host) or "" in host.split("."):
        raise BadUrl("invalid_tool_input", "the URL has no valid host name")
    return host


def mentions(text: str, wanted: WebUrl) -> bool:
    """Whether a text has this URL in it."""
    return any(
        _is(seen, wanted)
        for match in _MENTIONED.finditer(text)
        if _may_be(match[0], wanted)
        for seen in _readings(match[0])
    )


def _may_be(seen: str, wanted: WebUrl) -> bool:
    """Cheap: a page has thousands of links, and nearly all lead elsewhere. What is not ASCII has many
    spellings, so it is looked at."""
    return wanted.host in seen.lower() or not seen.isascii()


def _is(seen: str, wanted: WebUrl) -> bool:
    try:
        return web_url(seen).text == wanted.text
    except BadUrl:
        return False


def _readings(seen: str) -> Iterator[str]:
    """Where a URL in a text may end: punctuation after it may be the text's, it may stand in brackets, as
    `[text](https://a.example/b)`, and where words have no spaces between them, they go on behind it."""
    for whole in dict.fromkeys((seen, _ASCII.findall(seen)[0])):
        yield whole
        for end in range(1, _TRIMMED_MAX + 1):
            if whole[-end] not in _PUNCTUATION:
                break
            yield whole[:-end]
        for bracket in ")]":
            head, found, _ = whole.partition(bracket)
            if found:
                yield head
