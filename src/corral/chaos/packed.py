"""JSON kept for the judgement at the end, in a twentieth of the room that it takes as objects."""

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from corral.session.content import Json

__all__ = ["Packed"]

CHUNK: Final = 128  # values packed together; so many lie about unpacked


class Packed:
    """An append-only sequence of JSON values, in their order."""

    def __init__(self, values: Iterable[Json] = ()) -> None:
        self._chunks: list[bytes] = []
        self._latest: list[Json] = []
        for value in values:
            self.append(value)

    def append(self, value: Json) -> None:
        self._latest.append(value)
        if len(self._latest) == CHUNK:
            self._chunks.append(zlib.compress(json.dumps(self._latest).encode()))
            self._latest = []

    def __len__(self) -> int:
        return CHUNK * len(self._chunks) + len(self._latest)

    def __iter__(self) -> Iterator[Json]:
        for chunk in self._chunks:
            yield from json.loads(zlib.decompress(chunk))
        yield from self._latest
