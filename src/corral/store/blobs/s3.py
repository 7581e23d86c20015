"""Blobs in any S3-compatible service, through `obstore`.

Rules of this file:
- A blob of up to BLOB_PART_BYTES is one PUT; a longer one is a multipart upload, which the service makes
  visible as a whole when it is completed. Parts of an upload that was cut short stay hidden; a lifecycle
  rule of the bucket removes them (docs/how-to/store-blobs-in-s3.md).
- A read is one request per BLOB_PART_BYTES, each repeated by itself, all of the same version (ETag).
- Requests are signed together with their payload's hash, so bytes that changed on the way are refused.
- Retries live in `obstore`, bounded in number and time. A message of ours never repeats an answer's text,
  which may name keys: only its code.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final

from corral.catalog.blobs import Blob, check_key, check_prefix
from corral.kernel.errors import BlobUnavailable, NotFound
from corral.kernel.limits import (
    BLOB_BACKOFF_SECONDS,
    BLOB_BACKOFF_SECONDS_MAX,
    BLOB_CHUNK_BYTES,
    BLOB_CONNECT_SECONDS,
    BLOB_PART_BYTES,
    BLOB_PARTS_AT_ONCE,
    BLOB_REQUEST_SECONDS,
    BLOB_RETRIES_MAX,
    BLOB_RETRY_SECONDS,
    BLOB_SILENCE_SECONDS,
)

__all__ = ["S3Blobs"]

_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_REFUSALS: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "401", "PermissionDenied"}
)


class S3Blobs:
    """`catalog.blobs.BlobStore` in a bucket. Any number of nodes may share it."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
    ) -> None:
        """Keys of ours are below `prefix`. Without an access key those of the machine are taken, as AWS
        hands them to its instances. Raises BlobUnavailable without the extra `cluster`."""
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise BlobUnavailable(
                "Blobs in S3 need `obstore`: pip install 'corral[cluster]'", retryable=False
            ) from error
        self._obstore: Any = obstore
        self._errors: tuple[type[Exception], ...] = (BaseError, FileNotFoundError, FileExistsError, OSError)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        given = {
            "endpoint": endpoint,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        self._store = S3Store(
            bucket,
            region=region or "us-east-1",
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=BLOB_CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=BLOB_SILENCE_SECONDS),
                "timeout": timedelta(seconds=BLOB_REQUEST_SECONDS),
            },
            retry_config={
                "max_retries": BLOB_RETRIES_MAX,
                "retry_timeout": timedelta(seconds=BLOB_RETRY_SECONDS),
                "backoff": {
                    "init_backoff": timedelta(seconds=BLOB_BACKOFF_SECONDS),
                    "max_backoff": timedelta(seconds=BLOB_BACKOFF_SECONDS_MAX),
                    "base": 2,
                },
            },
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )

    async def put(self, key: str, data: AsyncIterator[bytes]) -> Blob:
        check_key(key)
        source = _Hashed(data)
        chunks = aiter(source)
        first = await _first_part(chunks)
        try:
            if sum(map(len, first)) < BLOB_PART_BYTES:
                await self._obstore.put_async(
                    self._store, self._prefix + key, b"".join(first), use_multipart=False
                )
            else:
                await self._obstore.put_async(
                    self._store,
                    self._prefix + key,
                    _chained(first, chunks),  # `obstore` makes the parts: here they would be there twice
                    use_multipart=True,
                    chunk_size=BLOB_PART_BYTES,
                    max_concurrency=BLOB_PARTS_AT_ONCE,
                )
        except Exception as error:
            if source.error is not None:  # what the caller's stream has raised comes back wrapped
                raise source.error from None
            raise self._unavailable(error) from error
        return Blob(key=key, size_bytes=source.size, sha256=source.digest.hexdigest())

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        check_key(key)
        try:
            found = await self._obstore.head_async(self._store, self._prefix + key)
        except FileNotFoundError:
            raise await self._missing(key) from None
        except self._errors as error:
            raise self._unavailable(error) from error
        last = found["size"] if end is None else min(end, found["size"])
        options = {} if found["e_tag"] is None else {"if_match": found["e_tag"]}
        for position in range(start, last, BLOB_PART_BYTES):
            wanted = (position, min(position + BLOB_PART_BYTES, last))
            try:
                answer = await self._obstore.get_async(
                    self._store, self._prefix + key, options={**options, "range": wanted}
                )
                part = memoryview(await answer.buffer_async())
            except FileNotFoundError:
                raise await self._missing(key) from None
            except self._errors as error:
                raise self._unavailable(error) from error
            for at in range(0, len(part), BLOB_CHUNK_BYTES):
                yield bytes(part[at : at + BLOB_CHUNK_BYTES])

    async def delete(self, key: str) -> None:
        check_key(key)
        try:
            await self._obstore.delete_async(self._store, self._prefix + key)
        except self._errors as error:
            if not isinstance(error, FileNotFoundError):
                raise self._unavailable(error) from error

    async def keys(self, prefix: str) -> AsyncGenerator[Blob, None]:
        check_prefix(prefix)
        # The service looks below whole parts of a key only; we look at the rest.
        above = (self._prefix + prefix).rpartition("/")[0]
        try:
            async for found in self._obstore.list(self._store, above or None, chunk_size=1000):
                for entry in found:
                    key = entry["path"].removeprefix(self._prefix)
                    if entry["path"].startswith(self._prefix) and key.startswith(prefix):
                        yield Blob(key=key, size_bytes=entry["size"], sha256="")
        except self._errors as error:
            raise self._unavailable(error) from error

    async def probe(self) -> None:
        async def little() -> AsyncIterator[bytes]:
            yield b"probe"

        key = f"probe/{token_hex(8)}"
        await self.put(key, little())
        async for _ in self.get(key):
            pass
        await self.delete(key)

    async def aclose(self) -> None:
        return

    # -- errors ---------------------------------------------------------------------------------------

    async def _missing(self, key: str) -> BlobUnavailable | NotFound:
        """What is missing: the blob, or its bucket, which the answer to a HEAD does not say."""
        try:
            await self._obstore.get_async(self._store, self._prefix + key)
        except self._errors as error:
            if _code(error) == "NoSuchBucket":
                return self._unavailable(error)
        return NotFound(f"There is no blob {key!r}.")

    def _unavailable(self, error: Exception) -> BlobUnavailable:
        where, code = f"The blob store s3://{self._bucket}/{self._prefix}", _code(error)
        if code == "NoSuchBucket":
            return BlobUnavailable(
                "The blob store has no such bucket: make it, or mend blob_url.",
                retryable=False,
                detail=f"{self._bucket!r}, {where}",
            )
        if code in _REFUSALS:
            return BlobUnavailable(
                f"The blob store refuses us ({code}). Check CORRAL_S3_ACCESS_KEY_ID,"
                " CORRAL_S3_SECRET_ACCESS_KEY, s3_region, and that the key may list, read, write and delete"
                " there.",
                retryable=False,
                detail=where,
            )
        if code == "PreconditionFailed":
            return BlobUnavailable("The blob was replaced while it was read. Read it again.", detail=where)
        return BlobUnavailable(
            f"The blob store does not answer as it should ({code or 'no answer'}, after {BLOB_RETRIES_MAX}"
            " more attempts). Check that the service runs and that CORRAL_S3_ENDPOINT is its URL.",
            detail=where,
        )


class _Hashed:
    """A stream, with what is known of it so far."""

    def __init__(self, data: AsyncIterator[bytes]) -> None:
        self._data = data
        self.digest, self.size = sha256(), 0
        self.error: BaseException | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._data:
                if len(chunk) > BLOB_CHUNK_BYTES:
                    await asyncio.to_thread(self.digest.update, chunk)
                else:
                    self.digest.update(chunk)
                self.size += len(chunk)
                yield chunk
        except BaseException as error:
            self.error = error
            raise


async def _first_part(chunks: AsyncIterator[bytes]) -> list[bytes]:
    """The beginning of the stream: of BLOB_PART_BYTES or a little more, else all of it."""
    first, size = [], 0
    async for chunk in chunks:
        first.append(chunk)
        size += len(chunk)
        if size >= BLOB_PART_BYTES:
            break
    return first


async def _chained(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    first.reverse()
    while first:  # what was given is not kept
        yield first.pop()
    async for chunk in rest:
        yield chunk


def _code(error: Exception) -> str:
    """S3's word for what went wrong, else the HTTP status, else a word of ours; no more of the answer."""
    text = str(error)
    if found := _CODE.search(text):
        return found[1]
    if found := _STATUS.search(text):
        return "PreconditionFailed" if found[1] == "412" else found[1]
    name = type(error).__name__.removesuffix("Error")
    return {"Precondition": "PreconditionFailed", "Unauthenticated": "PermissionDenied", "Generic": ""}.get(
        name, name
    )
