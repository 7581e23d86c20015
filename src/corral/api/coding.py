"""gzip and zstd: answers as a client accepts them, bodies as it sends them.

Only what is whole, is JSON or text, and is long enough to gain from it is compressed: never a stream, never
a download. Nor anything of ours under /corral/, and no work item: those carry secrets, and the length of a
compressed answer tells about what is in it. A compressed body is unpacked up to the bound that plain ones
have, so that it costs no more than one of these.
"""

import asyncio
import io
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache

import zstandard
from starlette.types import Message, Receive, Send

from corral.kernel.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from corral.kernel.limits import (
    CODED_BODY_BYTES_MIN,
    CODED_IN_THREAD_BYTES_MIN,
    ZSTD_WINDOW_BYTES_MAX,
)

__all__ = ["accepted", "compressing", "decoded", "is_compressible"]

_ZSTD_LEVEL, _GZIP_LEVEL = 1, 1  # a sixth of the size of JSON at a tenth of the default's time
_GZIP_WINDOW_BITS = 31  # zlib's way to say gzip


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
    return packer.compress(body) + packer.flush()


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)


_CODINGS: Mapping[bytes, Callable[[bytes], bytes]] = {b"zstd": _zstd, b"gzip": _gzip}  # by preference


@lru_cache(maxsize=64)  # clients are of few kinds
def accepted(accept_encoding: bytes | None) -> bytes | None:
    """The coding to answer in; None: as it is. Source: RFC 9110, 12.5.3."""
    if accept_encoding is None:
        return None
    weights: dict[bytes, float] = {}
    for part in accept_encoding.lower().split(b","):
        name, _, rest = part.partition(b";")
        try:
            weights[name.strip()] = float(rest.strip().removeprefix(b"q=") or 1)
        except ValueError:
            return None
    anything = weights.get(b"*", 0.0)
    best = max(_CODINGS, key=lambda coding: weights.get(coding, anything))
    return best if weights.get(best, anything) > 0 else None


def is_compressible(path: str) -> bool:
    """Whether no secret is in any answer there."""
    return not path.startswith("/corral/") and "/work" not in path


def compressing(send: Send, coding: bytes) -> Send:
    """`send` that packs an answer which comes whole."""
    start: Message | None = None

    async def packed(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            if _is_text(message):
                start = message  # what it says depends on the body
                return
        elif start is not None:
            held, start = start, None
            body: bytes = message.get("body", b"")
            headers = [(name, value) for name, value in held["headers"] if name != b"content-length"]
            if not message.get("more_body", False) and len(body) >= CODED_BODY_BYTES_MIN:
                pack = _CODINGS[coding]
                is_long = len(body) >= CODED_IN_THREAD_BYTES_MIN
                body = await asyncio.to_thread(pack, body) if is_long else pack(body)
                headers += [(b"content-encoding", coding), (b"content-length", b"%d" % len(body))]
                held = {**held, "headers": [*headers, (b"vary", b"Accept-Encoding")]}
                message = {**message, "body": body}
            await send(held)
        await send(message)

    return packed


def _is_text(start: Message) -> bool:
    types = [value for name, value in start["headers"] if name == b"content-type"]
    is_coded = any(name == b"content-encoding" for name, _ in start["headers"])
    return bool(types) and types[0].startswith((b"application/json", b"text/plain")) and not is_coded


def decoded(receive: Receive, coding: bytes, *, bytes_max: int, take: Callable[[int], None]) -> Receive:
    """`receive` that gives a body unpacked, whole. `receive` itself bounds what comes packed; `take` is
    told of the bytes of what came out.

    Raises UnsupportedMediaType. `receive` then raises InvalidRequest, RequestTooLarge.
    """
    unpack = {b"gzip": _gunzip, b"x-gzip": _gunzip, b"zstd": _unzstd}.get(coding.strip().lower())
    if unpack is None:
        raise UnsupportedMediaType(
            f"content-encoding: {coding.decode('latin-1')!r} is not one of gzip, zstd"
        )
    is_read = False

    async def unpacked() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        packed, has_more = bytearray(), True
        while has_more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            packed += message.get("body", b"")
            has_more = message.get("more_body", False)
        is_read = True
        try:
            body = await asyncio.to_thread(unpack, bytes(packed), bytes_max + 1)
        except (zlib.error, zstandard.ZstdError, EOFError) as broken:
            raise InvalidRequest(
                f"The request body is not valid {coding.decode('latin-1')}: {broken}"
            ) from None
        if len(body) > bytes_max:
            raise RequestTooLarge(f"The request body is larger than {bytes_max} bytes when unpacked")
        take(len(body))
        return {"type": "http.request", "body": body, "more_body": False}

    return unpacked


def _gunzip(packed: bytes, bytes_max: int) -> bytes:
    unpacker = zlib.decompressobj(_GZIP_WINDOW_BITS)
    body = unpacker.decompress(packed, bytes_max)
    if not unpacker.eof and len(body) < bytes_max:
        raise EOFError("it is cut off")
    return body


def _unzstd(packed: bytes, bytes_max: int) -> bytes:
    opener = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    whole = bytearray()
    with opener.stream_reader(io.BytesIO(packed)) as unpacked:
        while len(whole) < bytes_max and (some := unpacked.read(min(1 << 20, bytes_max - len(whole)))):
            whole += some
    return bytes(whole)
