"""Blobs in a directory.

    <root>/checkpoints/sesn_01abc/01xyz=    a blob; its name ends with `=`, which no key contains, so that
                                            the keys `a` and `a/b` do not meet
    <root>/~incoming/<random>               a blob on its way, locked (flock) by the process that writes it

Rules of this file:
- A blob appears by rename, after its bytes are on disk; then its directory is synced. So it is durable when
  `put` returns, and nobody sees a part of one.
- What a killed process left in ~incoming is locked by nobody: the next `open` removes it, and nothing else.
- Every file operation runs in a thread, and is waited for even if the caller is cancelled: a file must not
  be closed beneath a thread that writes to it.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from corral.catalog.blobs import Blob, check_key, check_prefix
from corral.kernel.errors import BlobUnavailable, NotFound
from corral.kernel.limits import BLOB_CHUNK_BYTES, DISK_FREE_BYTES_MIN

__all__ = ["LocalBlobs"]

T = TypeVar("T")
_INCOMING, _MARK = "~incoming", "="
# We make no links. Who made one may have fewer rights than we: root backs up what another user serves.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED_AT_ONCE = 256  # a trip to a thread costs more than an entry
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalBlobs:
    """`catalog.blobs.BlobStore` in a directory. Processes of one machine may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING

    @classmethod
    async def open(cls, root: Path) -> "LocalBlobs":
        """Make the directory (mode 0700) if it is missing, and remove what killed writers left.

        Raises BlobUnavailable if it cannot be used.
        """
        blobs = cls(root)
        await blobs._run(blobs._prepare)
        return blobs

    async def put(self, key: str, data: AsyncIterator[bytes]) -> Blob:
        check_key(key)
        fd, draft = await self._run(self._draft)
        digest, size = sha256(), 0
        try:
            async for chunk in data:
                await self._run(partial(self._write, fd, chunk))
                digest.update(chunk)
                size += len(chunk)
            await self._run(lambda: self._publish(fd, draft, self._path(key)))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
            raise
        finally:
            os.close(fd)
        return Blob(key=key, size_bytes=size, sha256=digest.hexdigest())

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        check_key(key)
        fd = await self._run(lambda: self._opened(key))
        if fd is None:
            raise NotFound(f"There is no blob {key!r}.")
        try:
            position = start
            while end is None or position < end:
                wanted = BLOB_CHUNK_BYTES if end is None else min(BLOB_CHUNK_BYTES, end - position)
                chunk = await self._run(partial(os.pread, fd, wanted, position))
                if not chunk:
                    return
                position += len(chunk)
                yield chunk
        finally:
            os.close(fd)

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._run(lambda: self._unlink(self._path(key)))

    async def keys(self, prefix: str) -> AsyncGenerator[Blob, None]:
        check_prefix(prefix)
        found = self._walk(prefix)
        while some := await self._run(lambda: list(islice(found, _LISTED_AT_ONCE))):
            for blob in some:
                yield blob

    async def probe(self) -> None:
        async def nothing() -> AsyncIterator[bytes]:
            yield b"probe"

        key = f"probe/{token_hex(8)}"
        await self.put(key, nothing())
        async for _ in self.get(key):
            pass
        await self.delete(key)

    async def aclose(self) -> None:
        return

    # -- in a thread ------------------------------------------------------------------------------------

    async def _run(self, action: Callable[[], T]) -> T:
        """Run it in a thread. Raises BlobUnavailable."""
        running = asyncio.ensure_future(asyncio.to_thread(action))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            running.exception()
            raise
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> BlobUnavailable:
        where = f"{str(self._root)!r}"
        if error.errno in _FULL:
            return BlobUnavailable(
                f"The blobs have no room ({error.strerror}). Free disk space.", detail=where
            )
        return BlobUnavailable(
            f"The blobs cannot be used ({error.strerror}). See that the directory is there and belongs to"
            " the user who runs Corral, or set blob_url.",
            detail=where,
            retryable=error.errno not in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS),
        )

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(self._incoming, _READ | os.O_DIRECTORY)
        try:
            with os.scandir(folder) as found:
                names = [entry.name for entry in found]
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(name, _READ, dir_fd=folder)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(name, dir_fd=folder)
                    except BlockingIOError:
                        pass  # somebody writes it now
                    finally:
                        os.close(fd)
        finally:
            os.close(folder)

    def _opened(self, key: str) -> int | None:
        """A descriptor; None if there is no such blob."""
        try:
            return os.open(self._path(key), _READ)
        except FileNotFoundError:
            self._incoming.stat()  # raises if it is the whole place that is gone: not mounted, perhaps
            return None

    def _draft(self) -> tuple[int, Path]:
        """A new file for the bytes to come, locked: an `open` elsewhere leaves it alone."""
        while True:
            draft = self._incoming / token_hex(16)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else it was swept before it was locked
                return fd, draft
            os.close(fd)

    def _write(self, fd: int, chunk: bytes) -> None:
        if shutil.disk_usage(self._root).free < DISK_FREE_BYTES_MIN + len(chunk):
            raise OSError(errno.ENOSPC, f"less than {DISK_FREE_BYTES_MIN >> 20} MiB would be left")
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def _publish(self, fd: int, draft: Path, path: Path) -> None:
        os.fsync(fd)
        while True:
            self._make_directory(path.parent)
            try:
                draft.rename(path)
                break
            except FileNotFoundError:  # a delete has just removed the directory, which was empty
                if not draft.exists():
                    raise
        _sync(path.parent)

    def _make_directory(self, directory: Path) -> None:
        """Make it and those above it, durably, down from our root."""
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # `_publish` looks again
            directory.mkdir(mode=0o700)
            _sync(directory.parent)

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            _sync(path.parent)
        directory = path.parent
        while directory != self._root:  # directories of sessions that are gone would pile up
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent

    def _walk(self, prefix: str) -> Iterator[Blob]:
        above = prefix.rpartition("/")[0]
        waiting = [self._root / above]
        while waiting:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(waiting.pop()) as found,
            ):
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != _INCOMING:
                            waiting.append(Path(entry.path))
                    elif entry.name.endswith(_MARK):
                        key = Path(entry.path).relative_to(self._root).as_posix()[: -len(_MARK)]
                        if key.startswith(prefix):
                            yield Blob(key=key, size_bytes=entry.stat().st_size, sha256="")

    def _path(self, key: str) -> Path:
        return self._root / f"{key}{_MARK}"


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
