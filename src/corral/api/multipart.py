"""`multipart/form-data`, part by part as it comes: nothing of it is kept here.

    form = Multipart(request)
    while (part := await form.next()) is not None:
        async for chunk in form.chunks(): ...       or   text = await form.text()

Bounds: parts, header lines and their length by the parser, size and pace of the whole by the gate, its time
here.
What is read no further is dropped by the server, with the rest of the body.
"""

import time
from asyncio import timeout
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)
from starlette.requests import ClientDisconnect, Request

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    MULTIPART_BOUNDARY_CHARS_MAX,
    MULTIPART_FIELD_BYTES_MAX,
    MULTIPART_HEADER_BYTES_MAX,
    MULTIPART_HEADERS_MAX,
    MULTIPART_PARTS_MAX,
    UPLOAD_SECONDS_MAX,
)

__all__ = ["Multipart", "Part"]


class Part(NamedTuple):
    """name: "" if it has none. filename, content_type: as they were sent, None if they were not."""

    name: str
    filename: str | None
    content_type: str | None


class Multipart:
    """The body of a request. All methods raise InvalidRequest: it is not what it says it is, was cut off,
    or comes too slowly."""

    def __init__(
        self,
        request: Request,
        *,
        parts_max: int = MULTIPART_PARTS_MAX,
        seconds_max: float = UPLOAD_SECONDS_MAX,
    ) -> None:
        self._parser = PushMultipartParser(
            _boundary(request),
            max_header_size=MULTIPART_HEADER_BYTES_MAX,
            max_header_count=MULTIPART_HEADERS_MAX,
            max_segment_count=parts_max,
        )
        self._events = self._parsed(_timely(request, seconds_max))
        self._is_inside = False

    async def next(self) -> Part | None:
        """The next part, past what is left of this one; None behind the last."""
        while self._is_inside:
            await self._chunk()
        event = await anext(self._events, None)
        if event is None:
            return None
        assert isinstance(event, MultipartSegment)
        self._is_inside = True
        return Part(event.name or "", event.filename, event.header("Content-Type"))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content of the part, in pieces of the network's size."""
        while self._is_inside:
            chunk = await self._chunk()
            if chunk:
                yield chunk

    async def text(self, *, bytes_max: int = MULTIPART_FIELD_BYTES_MAX) -> str:
        """The content of a small part."""
        content = bytearray()
        async for chunk in self.chunks():
            content += chunk
            if len(content) > bytes_max:
                raise InvalidRequest(f"A field of the form has more than {bytes_max} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("A field of the form is not UTF-8") from None

    async def aclose(self) -> None:
        await self._events.aclose()

    async def _chunk(self) -> bytes:
        """More of the part; b"" at its end."""
        event = await anext(self._events)
        if event is None:
            self._is_inside = False
            return b""
        return bytes(event)

    async def _parsed(
        self, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[MultipartSegment | bytes | None, None]:
        try:
            async for chunk in body:
                for event in self._parser.parse(chunk):
                    yield event
            self._parser.close()
        except MultipartError as error:
            raise InvalidRequest(f"The multipart body cannot be read: {error}") from None


def _boundary(request: Request) -> str:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get("boundary", "")
    is_fine = 0 < len(boundary) <= MULTIPART_BOUNDARY_CHARS_MAX and boundary.isascii()
    if kind != "multipart/form-data" or not is_fine or not boundary.isprintable():
        raise InvalidRequest(
            "Content-Type: must be multipart/form-data with a boundary of 1 to"
            f" {MULTIPART_BOUNDARY_CHARS_MAX} printable ASCII characters"
        )
    return str(boundary)


async def _timely(request: Request, seconds_max: float) -> AsyncIterator[bytes]:
    """The body as it comes."""
    stream = request.stream()
    end = time.monotonic() + seconds_max
    while True:
        try:
            async with timeout(end - time.monotonic()):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise InvalidRequest(f"The upload takes too long: {seconds_max:g} s. Send it again.") from None
        except ClientDisconnect:
            raise InvalidRequest("The upload was cut off. Send it again.") from None
        if chunk is None:
            return
        if chunk:
            yield chunk
