"""Which headers go on through a proxy. Source: RFC 9110, 7.6.1; RFC 9112, 6."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from corral.egress.target import BadTarget, Target, authority

__all__ = ["OtherHost", "RawHeaders", "check_host", "passed_on", "wants_websocket"]

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]
_OF_ONE_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
     b"te", b"upgrade")
)  # fmt: skip


class OtherHost(BadTarget):
    """A request says two hosts; the message, why it is refused."""


def passed_on(headers: Iterable[tuple[bytes, bytes]], *, keeps_upgrade: bool) -> RawHeaders:
    """Without those of one hop, and without those that `Connection` names. h11 frames bodies anew from
    Content-Length and Transfer-Encoding, which stay; of both, only the latter."""
    headers = list(headers)
    dropped = set(_OF_ONE_HOP)
    for name, value in headers:
        if name.lower() == b"connection":
            dropped |= {word.strip().lower() for word in value.split(b",")}
    dropped -= {b"transfer-encoding", b"content-length", b"host"}
    if any(name.lower() == b"transfer-encoding" for name, _ in headers):
        dropped.add(b"content-length")
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    if keeps_upgrade:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return kept


def wants_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """No other protocol is switched to: HTTP/2 in clear text would be requests that nobody reads."""
    found = {name.lower(): value.lower() for name, value in headers}
    words = [word.strip() for word in found.get(b"connection", b"").split(b",")]
    return b"upgrade" in words and found.get(b"upgrade", b"").strip() == b"websocket"


def check_host(headers: RawHeaders, target: Target, *, default_port: int) -> None:
    """Raises OtherHost if the Host header names another host than the target; h11 lets only one through.
    BadTarget: it names none."""
    for name, value in headers:
        if name.lower() == b"host" and authority(value.strip(), default_port=default_port) != target:
            raise OtherHost("the Host header names another host than the request is for")
