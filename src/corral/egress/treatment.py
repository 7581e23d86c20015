"""One request, and its answer, to a host for which the session has credentials: what is changed in them."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from corral.egress.headers import RawHeaders
from corral.egress.spoken import Spoken
from corral.egress.substitution import Substitution, check_put_in
from corral.egress.swap import Swap
from corral.kernel.ids import CredentialId
from corral.kernel.limits import EGRESS_CHUNK_BYTES, EGRESS_HEADERS_MAX, EGRESS_HELD_BYTES_MAX

__all__ = ["Answer", "Packed", "Treatment"]

# An answer is read here, so it must come as it is; a part of one could be a part of a secret.
_NOT_ASKED: Final = frozenset((b"accept-encoding", b"range", b"if-range", b"sec-websocket-extensions"))
_BITS: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_BODILESS: Final = frozenset((204, 304))


class Packed(Exception):
    """An answer, or a part of one, that cannot be read here. Words for the sandbox."""


class Treatment:
    """credential_ids: what is in the headers. uses: told of each that is put into the body, before it goes
    out; what it raises ends the request."""

    def __init__(
        self,
        substitution: Substitution,
        headers: RawHeaders,
        *,
        method: bytes,
        path: bytes,
        uses: Callable[[CredentialId], None],
    ) -> None:
        """headers: as they are passed on. Raises CredentialUnusable."""
        self._substitution = substitution
        self._uses = uses
        self._method = method
        self._path = path
        asked = [(name, value) for name, value in headers if name.lower() not in _NOT_ASKED]
        asked.append((b"Accept-Encoding", b"identity"))
        self.headers, self.credential_ids = substitution.head(asked, path)
        self._known = set(self.credential_ids)
        self._put_in = 0
        self._swap: Swap | None = None
        if _value(headers, b"content-encoding").lower() in (b"", b"identity"):
            self._swap = substitution.body(_value(headers, b"content-type").decode("latin-1"))
        self.mask = substitution.mask()

    @property
    def body_bytes_held(self) -> int:
        """So much of the request's body is to be held, to count what becomes of it; 0 for none."""
        length = _length(self.headers)
        return length if self._swap is not None and 0 < length <= EGRESS_HELD_BYTES_MAX else 0

    def counted(self, length: int) -> RawHeaders:
        """The headers of a body of so many bytes."""
        kept = [each for each in self.headers if each[0].lower() not in (b"content-length", b"expect")]
        return [*kept, (b"Content-Length", str(length).encode())]

    def streamed(self) -> RawHeaders:
        """The headers of a body of which nobody knows how long it will be, if it may be changed."""
        if self._swap is None or not _length(self.headers):
            return self.headers
        kept = [each for each in self.headers if each[0].lower() != b"content-length"]
        return [*kept, (b"Transfer-Encoding", b"chunked")]

    def fed(self, data: bytes) -> bytes:
        """The next of the request's body, as it goes on. Raises CredentialUnusable: too much is put in."""
        if self._swap is None:
            return data
        self._put_in += self._swap.growth(data)
        check_put_in(self._put_in)
        return self._noted(self._swap.feed(data))

    def ended(self) -> bytes:
        return b"" if self._swap is None else self._noted(self._swap.end())

    def _noted(self, data: bytes) -> bytes:
        assert self._swap is not None
        for credential_id in self._substitution.in_body(self._swap.found):
            if credential_id not in self._known:
                self._known.add(credential_id)
                self._uses(credential_id)
        return data

    # -- what comes back ------------------------------------------------------------------------------

    def masked(self, headers: RawHeaders) -> RawHeaders:
        """Raises Packed."""
        if len(headers) > EGRESS_HEADERS_MAX:
            raise Packed(f"its answer has more than {EGRESS_HEADERS_MAX} headers")
        return [(self.mask.all(name), self.mask.all(value)) for name, value in headers]

    def answer(self, status: int, headers: RawHeaders) -> "Answer":
        """headers: as they are passed on. Raises Packed."""
        is_bodiless = self._method == b"HEAD" or status in _BODILESS
        headers = self._substitution.linked(headers, self._path)
        return Answer(
            self.masked(headers), self._substitution.mask(is_steady=True), is_bodiless=is_bodiless
        )

    def spoken(self) -> Spoken:
        """For what a host says that has switched to WebSockets: nothing can be replaced there, but what is
        found can be kept back."""
        return Spoken(self._substitution.spellings())


class Answer:
    """headers: as the sandbox gets them, if they are sent before the body; without a length then."""

    def __init__(self, headers: RawHeaders, mask: Swap, *, is_bodiless: bool) -> None:
        """Raises Packed."""
        self._mask = mask
        self.headers = headers
        self._unpacking: zlib._Decompress | None = None
        self._bits = 0
        self.is_held = False
        if is_bodiless:
            return
        packed = _value(headers, b"content-encoding").strip().lower()
        if packed not in (b"", b"identity"):
            if packed not in _BITS:
                raise Packed("its answer is compressed although it was asked for none")
            self._bits = _BITS[packed]
            self._unpacking = zlib.decompressobj(self._bits)
            headers = [each for each in headers if each[0].lower() != b"content-encoding"]
        length = _length(headers)
        self.is_held = self._unpacking is None and 0 < length <= EGRESS_HELD_BYTES_MAX
        if length:
            headers = [each for each in headers if each[0].lower() != b"content-length"]
        self.headers = headers

    def counted(self, length: int) -> RawHeaders:
        return [*self.headers, (b"Content-Length", str(length).encode())]

    @property
    def holds(self) -> bool:
        """Whether something that is to go on waits for more."""
        return self._mask.held_bytes > 0 and not self.is_held

    def let_go(self) -> bytes:
        """What of it may go on although nothing more came for some time."""
        return self._mask.lines()

    def fed(self, data: bytes) -> Iterator[bytes]:
        """The next of the body, as it goes on, in pieces of bounded size, each unpacked when it is asked
        for. Raises Packed."""
        if self._unpacking is None:
            yield self._mask.feed(data)
            return
        try:
            while data:
                if self._unpacking.eof:  # another one follows: RFC 1952, 2.2
                    self._unpacking = zlib.decompressobj(self._bits)
                yield self._mask.feed(self._unpacking.decompress(data, EGRESS_CHUNK_BYTES))
                data = self._unpacking.unconsumed_tail or self._unpacking.unused_data
        except zlib.error:
            raise Packed("its answer is not compressed as it says") from None

    def ended(self) -> bytes:
        """Raises Packed: it is cut off."""
        if self._unpacking is None:
            return self._mask.end()
        rest = self._mask.feed(self._unpacking.flush())  # what was over a bound
        if not self._unpacking.eof:
            raise Packed("its answer is cut off")
        return rest + self._mask.end()


def _value(headers: RawHeaders, wanted: bytes) -> bytes:
    return b",".join(value for name, value in headers if name.lower() == wanted)


def _length(headers: RawHeaders) -> int:
    """Of a body whose length is told beforehand; else 0."""
    if any(name.lower() == b"transfer-encoding" for name, _ in headers):
        return 0
    length = _value(headers, b"content-length")
    return int(length) if length.isdigit() else 0
