"""Where a request to a proxy wants to go. Parsed strictly: what can be read in two ways is refused."""

import re
from dataclasses import dataclass
from typing import Final

from corral.kernel.hosts import canonical_host

__all__ = ["BadTarget", "Target", "absolute_target", "authority", "connect_target", "whole_url"]

_AUTHORITY: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.S)
_PORTS: Final = {"http": 80, "https": 443}


class BadTarget(Exception):
    """The message says what the client should have sent."""


@dataclass(frozen=True, slots=True)
class Target:
    """host: canonical."""

    host: str
    port: int

    def authority(self, *, default_port: int) -> bytes:
        """As a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == default_port else f"{host}:{self.port}").encode()


def authority(text: bytes, *, default_port: int | None) -> Target:
    """`host` or `host:port`. default_port: None where the port must be named. Raises BadTarget."""
    found = _AUTHORITY.fullmatch(text)
    host = canonical_host(found[1].decode()) if found else None
    port = int(found[2]) if found and found[2] else default_port
    if host is None or port is None or not 0 < port < 65536:
        raise BadTarget(f"{text[:300].decode('latin-1')!r} names no host and port")
    return Target(host, port)


def connect_target(target: bytes) -> Target:
    """Of a CONNECT. Raises BadTarget."""
    return authority(target, default_port=None)


def absolute_target(target: bytes) -> tuple[Target, bytes]:
    """Of any other request to a proxy: where to, and the target to send there. Raises BadTarget."""
    scheme, where, path = whole_url(target)
    if scheme != "http":
        raise BadTarget("only http:// URLs are requested from a proxy; for https:// use CONNECT")
    return where, path


def whole_url(url: bytes) -> tuple[str, Target, bytes]:
    """Scheme (`http` or `https`), host and port, and what is requested there. Raises BadTarget."""
    parts = _ABSOLUTE.fullmatch(url)
    if parts is None:
        raise BadTarget("this is a proxy: send the whole URL, as in GET http://example.com/")
    scheme = parts[1].lower().decode()
    if scheme not in _PORTS:
        raise BadTarget("only http:// URLs are requested from a proxy; for https:// use CONNECT")
    rest = parts[3].partition(b"#")[0]
    path = rest if rest.startswith(b"/") else b"/" + rest
    return scheme, authority(parts[2], default_port=_PORTS[scheme]), path
