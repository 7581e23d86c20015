"""Secrets that are looked for, however they are spelled."""

import base64
import gzip
import secrets
from collections.abc import AsyncIterator

import pytest

from corral.hands.archive import packed
from corral.redteam.canaries import KINDS, Canaries, Search
from corral.redteam.inside.box import CANARY


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_secret_is_found_as_it_stands_and_in_disguise(before: int) -> None:
    secret = Canaries().plant("vault").encode()
    padded = bytes(before) + secret + b"..."
    for content in (secret, base64.b64encode(padded), padded.hex().encode(), secret[::-1]):
        search = Search(secrets={"a secret": secret.decode()})
        search.look("a log", b"before " + content + b" after")
        assert search.hits == [("a secret", "a log")], content


async def test_a_secret_is_found_in_what_is_packed() -> None:
    secret = Canaries().plant("vault")

    filler = secrets.token_hex(50_000).encode()

    async def files() -> AsyncIterator[bytes]:
        yield filler
        yield secret.encode()

    checkpoint = b"".join([piece async for piece in packed(files())])
    for content in (checkpoint, gzip.compress(filler + secret.encode()) + b"and more"):
        assert secret.encode() not in content
        search = Search(secrets={"a secret": secret})
        search.look("a blob", content)
        assert search.hits == [("a secret", "a blob")]
    search.look("a log", b"\x28\xb5\x2f\xfd is no archive")


def test_searches_are_counted_and_what_may_be_there_is_no_hit() -> None:
    search = Search(secrets={"one": "corral-canary-one", "two": "corral-canary-two"})
    search.look("a", b"nothing")
    search.look("b", b"corral-canary-one", only=["two"])
    assert search.count == 4 and search.hits == [] and search.places == {"a": 7, "b": 17}
    search.look("b", b"corral-canary-two", only=["two"])
    assert search.hits == [("two", "b")]


def test_each_is_unique_and_recognized_inside() -> None:
    canaries = Canaries()
    values = [canaries.plant(kind) for kind in KINDS]
    assert len(set(values)) == len(values)
    assert all(CANARY.fullmatch(value.encode()) for value in values)
