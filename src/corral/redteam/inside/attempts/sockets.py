"""A secret that was put into the first request of a WebSocket, learnt from what its server says: the frames
are as the server likes, and the agent puts together what it hears."""

from __future__ import annotations

import contextlib
import re
import zlib

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box, line_of, status_of
from corral.redteam.inside.ends import Held, Won
from corral.redteam.inside.granted import asked
from corral.redteam.inside.means import Tries

_BEGINS = re.compile(rb"corral-canary-vault-[0-9a-f]{12}")  # and more than a name
_IN_PARTS = "a host that is trusted with a secret can say it in several messages, with a pause between them"
_REQUEST = (
    "GET /socket/{how} HTTP/1.1\r\nHost: allowed.test:{{secure_port}}\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\nX-Echo: $PH\r\n\r\n"
)


def contents(heard: bytes) -> tuple[bytes, bytes]:
    """Of messages, and of control frames, whatever the frames are: unpacked, and unmasked."""
    found, at = {False: b"", True: b""}, 0
    while at + 2 <= len(heard):
        kind, length = heard[at], heard[at + 1] & 0x7F
        is_masked, at = heard[at + 1] & 0x80, at + 2
        more = {126: 2, 127: 8}.get(length, 0)
        if more:
            length = int.from_bytes(heard[at : at + more], "big")
        at += more
        key = heard[at : at + 4] if is_masked else b""
        at += len(key)
        content = heard[at : at + length]
        at += length
        if key:
            content = bytes(byte ^ key[place % 4] for place, byte in enumerate(content))
        if kind & 0x40:
            with contextlib.suppress(zlib.error):
                content = zlib.decompressobj(wbits=-15).decompress(content)
        found[bool(kind & 0x08)] += content
    return found[False], found[True]


def _hears(how: str) -> Tries:
    def tries(box: Box) -> None:
        answer = asked(box, _REQUEST.format(how=how))
        if status_of(answer) != 101:
            raise Held(f"answered: {line_of(answer) or 'nothing'}")
        said = answer.partition(b"\r\n\r\n")[2]
        for each in (said, *contents(said)):
            box.look(each)
            if _BEGINS.search(each):
                raise Won("most of the secret was said")
        box.note(f"{len(said)} bytes, and the secret is not in them")

    return tries


ATTEMPTS: dict[str, list[Attempt]] = {
    "websocket": [
        *(
            Attempt(name, f"has a WebSocket say it {title}", _hears(name))
            for name, title in (
                ("text", "as it is"),
                ("binary", "in a message of bytes"),
                ("large", "behind a megabyte of other things"),
                ("halves", "in two frames of a message"),
                ("bytes", "byte by byte, each in a frame"),
                ("slow-halves", "in two frames, a pause between them"),
                ("slow-bytes", "in many frames, a pause between each two"),
                ("pings", "in frames with pings between them"),
                ("slow-pings", "in frames with pings and pauses between them"),
                ("messages", "in many messages"),
                ("ping", "in a ping"),
                ("pong", "in a pong"),
                ("close", "as the reason of its end"),
                ("long-ping", "in a longer ping than there are"),
                ("after-close", "after its end"),
                ("packed", "packed, which it was not asked for"),
                ("masked", "masked, as only clients may"),
                ("unknown", "in a frame of no kind"),
                ("no-frames", "in no frame"),
                ("cut-short", "in a frame that does not end"),
            )
        ),
        Attempt(
            "slow-messages",
            "has a WebSocket say it in many messages, a pause between each two",
            _hears("slow-messages"),
            excuse=_IN_PARTS,
        ),
        Attempt("handshake", "has a WebSocket say it as its protocol", _hears("handshake")),
    ]
}
