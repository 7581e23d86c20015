"""The host that a TLS client asks for, read from its first message. OpenSSL does the reading: a parser of
ours would be one more that can be told a lie."""

import ssl
from typing import Final, Literal

from corral.kernel.limits import EGRESS_HELLO_BYTES_MAX

__all__ = ["UNRECOGNIZED_NAME", "Hello", "begins_tls"]

UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"
"""The fatal alert (RFC 8446, 6.2) that tells a client that its name is refused."""


def begins_tls(data: bytes) -> bool:
    """Whether a connection that begins so is TLS: a handshake record (RFC 8446, 5.1)."""
    return data[:1] == b"\x16" and data[1:2] in (b"", b"\x03")


class _Read(ssl.SSLObject):
    server_name: str | None = None
    is_read = False


def _take_name(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int:
    assert isinstance(connection, _Read)
    connection.server_name, connection.is_read = name, True
    return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)  # go no further


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Read
    context.sni_callback = _take_name
    return context


_CONTEXT: Final = _context()


class Hello:
    """Give it what comes until it is not `unfinished`.

    server_name: as the client spells it; None if it names no host.
    """

    def __init__(self) -> None:
        self._incoming = ssl.MemoryBIO()
        self._reading = _CONTEXT.wrap_bio(self._incoming, ssl.MemoryBIO(), server_side=True)
        self._size = 0
        self.server_name: str | None = None

    def feed(self, data: bytes) -> Literal["unfinished", "read", "unreadable"]:
        self._size += len(data)
        self._incoming.write(data)
        try:
            self._reading.do_handshake()
        except ssl.SSLWantReadError:
            return "unfinished" if self._size <= EGRESS_HELLO_BYTES_MAX else "unreadable"
        except ssl.SSLError:
            pass
        assert isinstance(self._reading, _Read)
        self.server_name = self._reading.server_name
        return "read" if self._reading.is_read else "unreadable"
