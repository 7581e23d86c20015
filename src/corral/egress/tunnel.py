"""A connection that is passed through unread, but for its first bytes: a TLS client must ask for the host
that the connection was opened to."""

import asyncio
import re
from typing import Final

from corral.egress.hello import UNRECOGNIZED_NAME, Hello, begins_tls
from corral.egress.policy import Refused
from corral.egress.target import Target
from corral.egress.wire import Silent, Wire, both
from corral.kernel.hosts import canonical_host
from corral.kernel.limits import EGRESS_HEAD_SECONDS, EGRESS_IDLE_SECONDS

__all__ = ["checked_hello", "is_http", "opened", "pass_through"]

# Line ends before a request are nothing to many servers. Letters alone may still become a request.
_UNDECIDED: Final = re.compile(rb"[\r\n]*[A-Za-z]{0,24} ?")
_HTTP: Final = re.compile(rb"[\r\n]*[A-Za-z]{1,24} [/*hH]")


async def opened(near: Wire, far: Wire) -> bytes:
    """What the client says first, enough to tell what it speaks; empty if the host speaks first, or nobody.

    Raises OSError, Silent.
    """
    said = b""
    while True:
        done, _ = await asyncio.wait(
            {near.coming(), far.coming()}, timeout=EGRESS_IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise Silent
        if near.coming() not in done:
            return said
        chunk = await near.read()
        said += chunk
        if not chunk or not _UNDECIDED.fullmatch(said):
            return said


def is_http(first: bytes) -> bool:
    """Whether a connection that begins so is HTTP in clear text."""
    return _HTTP.match(first) is not None


async def pass_through(near: Wire, far: Wire, first: bytes, target: Target) -> None:
    """Until both sides have ended. first: what the client has said.

    Raises OSError, TimeoutError, Silent; Refused for a TLS client that asks for another host: nothing of it
    went out.
    """
    if begins_tls(first):
        first = await checked_hello(near, first, target)
    if first:
        await far.write(first)
    await both(near.pour(far), far.pour(near), near, far)


async def checked_hello(near: Wire, first: bytes, target: Target) -> bytes:
    """All that was said up to the end of a TLS hello. Raises OSError, TimeoutError; Refused, which the
    client was told."""
    hello, said, chunk = Hello(), b"", first
    while True:
        said += chunk
        state = hello.feed(chunk)
        if state != "unfinished":
            break
        async with asyncio.timeout(EGRESS_HEAD_SECONDS):
            chunk = await near.read()
        if not chunk:
            raise ConnectionResetError
    name = hello.server_name
    if state == "read" and (name is None or canonical_host(name) == target.host):
        return said
    await near.write(UNRECOGNIZED_NAME)
    await near.drain()
    if state == "unreadable":
        raise Refused("the TLS hello cannot be read")
    raise Refused("TLS asks for another host than CONNECT", detail=f"for {name!r}")
