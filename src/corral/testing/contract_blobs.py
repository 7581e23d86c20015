"""What every blob store must do. Run `CHECKS` on yours: each is an async function of an empty `BlobStore`.

@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check, blobs):
    await check(blobs)
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from hashlib import sha256

from corral.catalog.blobs import BlobStore
from corral.kernel.errors import CorralError, InvalidRequest, NotFound
from corral.kernel.limits import BLOB_CHUNK_BYTES, BLOB_KEY_CHARS_MAX, BLOB_PART_BYTES

__all__ = ["CHECKS", "chunks", "read"]

LONG = 2 * BLOB_PART_BYTES + 4321  # three parts, the last one short


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def chunks(data: bytes, *, size: int = 300_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def read(blobs: BlobStore, key: str, *, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in blobs.get(key, start=start, end=end)])


async def error_of(action: Awaitable[object]) -> CorralError | None:
    try:
        await action
    except CorralError as error:
        return error
    return None


class Broken(Exception):
    """What a stream raises in the middle."""


async def breaking(data: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks(data):
        yield chunk
    raise Broken


async def puts_and_gets(blobs: BlobStore) -> None:
    for size in (0, 1, BLOB_CHUNK_BYTES, BLOB_PART_BYTES - 1, BLOB_PART_BYTES, BLOB_PART_BYTES + 1, LONG):
        data = some_bytes(size)
        blob = await blobs.put(f"a/{size}", chunks(data))
        assert (blob.key, blob.size_bytes) == (f"a/{size}", size)
        assert blob.sha256 == sha256(data).hexdigest()
        assert await read(blobs, f"a/{size}") == data


async def gets_in_bounded_chunks(blobs: BlobStore) -> None:
    await blobs.put("long", chunks(some_bytes(LONG), size=5_000_000))
    sizes = [len(chunk) async for chunk in blobs.get("long")]
    assert sum(sizes) == LONG and 0 < max(sizes) <= BLOB_CHUNK_BYTES and min(sizes) > 0


async def gets_a_part(blobs: BlobStore) -> None:
    data = some_bytes(LONG)
    await blobs.put("long", chunks(data))
    part = BLOB_PART_BYTES
    for start, end in (
        (0, 0), (0, 1), (5, 9), (part - 3, part + 3), (part, part), (LONG - 2, None), (LONG - 2, LONG + 9),
        (LONG, None), (LONG + 5, LONG + 9), (1, None),
    ):  # fmt: skip
        assert await read(blobs, "long", start=start, end=end) == data[start:end], (start, end)


async def replaces(blobs: BlobStore) -> None:
    await blobs.put("a", chunks(some_bytes(LONG)))
    await blobs.put("a", chunks(b"short"))
    assert await read(blobs, "a") == b"short"
    assert [(blob.key, blob.size_bytes) async for blob in blobs.keys("")] == [("a", 5)]


async def a_read_is_of_one_blob(blobs: BlobStore) -> None:
    old, new = some_bytes(LONG, 1), some_bytes(LONG, 2)
    await blobs.put("a", chunks(old))
    async with aclosing(blobs.get("a")) as reading:
        got = await anext(reading)
        await blobs.put("a", chunks(new))
        try:
            async for chunk in reading:
                got += chunk
        except CorralError as error:
            assert "Read it again" in str(error)
        else:
            assert got == old
    assert await read(blobs, "a") == new


async def a_stream_that_breaks_leaves_nothing(blobs: BlobStore) -> None:
    await blobs.put("kept", chunks(b"old"))
    for size in (0, 10, LONG):
        for key in ("new", "kept"):
            try:
                await blobs.put(key, breaking(some_bytes(size)))
            except Broken:
                continue
            raise AssertionError("the stream's own error was lost")
    assert await read(blobs, "kept") == b"old"
    assert isinstance(await error_of(read(blobs, "new")), NotFound)
    assert [blob.key async for blob in blobs.keys("")] == ["kept"]


async def a_cancelled_put_leaves_nothing(blobs: BlobStore) -> None:
    half_way = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        async for chunk in chunks(some_bytes(LONG)):
            yield chunk
        half_way.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(blobs.put("new", stuck()))
    await half_way.wait()
    putting.cancel()
    await asyncio.wait([putting])
    assert putting.cancelled()
    assert [blob.key async for blob in blobs.keys("")] == []


async def deletes(blobs: BlobStore) -> None:
    await blobs.put("a/b/c", chunks(b"1"))
    await blobs.put("a/b/d", chunks(b"2"))
    await blobs.delete("a/b/c")
    await blobs.delete("a/b/c")
    await blobs.delete("never/was")
    assert isinstance(await error_of(read(blobs, "a/b/c")), NotFound)
    assert await read(blobs, "a/b/d") == b"2"
    await blobs.delete("a/b/d")
    assert [blob.key async for blob in blobs.keys("")] == []
    await blobs.put("a/b/c", chunks(b"3"))
    assert await read(blobs, "a/b/c") == b"3"


async def lists_by_prefix(blobs: BlobStore) -> None:
    names = ["a/1", "a/2", "a/b/3", "ab", "b/1", "a.b_c-d/~".replace("~", "e")]
    for number, key in enumerate(names):
        await blobs.put(key, chunks(b"x" * number))

    async def listed(prefix: str) -> dict[str, int]:
        return {blob.key: blob.size_bytes async for blob in blobs.keys(prefix)}

    sizes = {key: number for number, key in enumerate(names)}
    for prefix in ("", "a", "a/", "a/b", "a/b/", "ab", "b/", "nothing", "a/b/3", "a/b/3/"):
        assert await listed(prefix) == {k: v for k, v in sizes.items() if k.startswith(prefix)}, prefix


async def lists_many(blobs: BlobStore) -> None:
    keys = {f"many/{number}" for number in range(1100)}  # services list 1000 at a time
    for some in [sorted(keys)[at : at + 50] for at in range(0, len(keys), 50)]:
        await asyncio.gather(*(blobs.put(key, chunks(b"x")) for key in some))
    assert {blob.key async for blob in blobs.keys("many/")} == keys


async def a_key_may_begin_another(blobs: BlobStore) -> None:
    await blobs.put("a", chunks(b"1"))
    await blobs.put("a/b", chunks(b"2"))
    await blobs.put("a/b/c", chunks(b"3"))
    assert [await read(blobs, key) for key in ("a", "a/b", "a/b/c")] == [b"1", b"2", b"3"]
    await blobs.delete("a")
    assert await read(blobs, "a/b/c") == b"3"


async def refuses_other_keys(blobs: BlobStore) -> None:
    for key in (
        "", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "a b", "a\0b", "a\n", "ä", "a=b", 
        "~incoming/a", "a" * 201, "a/" * BLOB_KEY_CHARS_MAX + "a",
    ):  # fmt: skip
        for action in (blobs.put(key, chunks(b"x")), read(blobs, key), blobs.delete(key)):
            assert isinstance(await error_of(action), InvalidRequest), key
    assert [blob.key async for blob in blobs.keys("")] == []


async def puts_side_by_side(blobs: BlobStore) -> None:
    datas = [some_bytes(400_000, seed) for seed in range(8)]
    await asyncio.gather(*(blobs.put(f"k/{n}", chunks(data)) for n, data in enumerate(datas)))
    assert [await read(blobs, f"k/{n}") for n in range(8)] == datas
    await asyncio.gather(*(blobs.put("k/same", chunks(data)) for data in datas))
    assert await read(blobs, "k/same") in datas


async def probes(blobs: BlobStore) -> None:
    await blobs.probe()
    assert [blob.key async for blob in blobs.keys("")] == []


CHECKS: tuple[Callable[[BlobStore], Awaitable[None]], ...] = (
    puts_and_gets,
    gets_in_bounded_chunks,
    gets_a_part,
    replaces,
    a_read_is_of_one_blob,
    a_stream_that_breaks_leaves_nothing,
    a_cancelled_put_leaves_nothing,
    deletes,
    lists_by_prefix,
    lists_many,
    a_key_may_begin_another,
    refuses_other_keys,
    puts_side_by_side,
    probes,
)
