"""Layers in the blob store: made when nobody has made them yet, then everybody's.

    layers/<digest>/<seconds since 1970 when it was made>-<workspace that it was made for>
    layers/<digest>/<the same>.sha256    of its bytes as stored; without one it is not whole

Rules of this file:
- One installation of the same packages at a time for each workspace of this process; who asks meanwhile
  waits for it, and never for that of another workspace, which may have to wait for its turn. Two may do the
  same work at once: each stores a whole layer, and either serves.
- A layer that is not fresh is not given out any more: packages that are not pinned are to be the newest.
  Hosts that have it keep it for sessions that had it.
- What failed a moment ago is not tried again at once: sessions ask again by themselves.
- Bounds: bytes and number of all, of which the oldest go first, so that no blob store fills up with layers;
  and how many a workspace has made in a day, so that it does not push out everybody else's.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing

from corral.catalog.blobs import Blob, BlobStore
from corral.catalog.packages import Wanted
from corral.hands.archive import BrokenArchive, checked, packed
from corral.kernel.errors import BlobUnavailable, NotFound
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, WorkspaceId
from corral.kernel.limits import (
    LAYER_FRESH_SECONDS,
    LAYER_LOOK_SECONDS,
    LAYERS_MADE_PER_DAY_MAX,
    LAYERS_STORED_BYTES_MAX,
    LAYERS_STORED_MAX,
    PACKAGES_RETRY_SECONDS,
)
from corral.packages.installer import Installer, PackagesFailed

__all__ = ["Layers", "forget_layers"]

log = logging.getLogger(__name__)

_PREFIX, _SUM = "layers/", ".sha256"
_DAY_SECONDS = 24 * 3600.0


class Layers:
    """Of one node."""

    def __init__(self, installer: Installer, blobs: BlobStore) -> None:
        self._installer = installer
        self._blobs = blobs
        self._making: dict[tuple[str, WorkspaceId], asyncio.Task[str]] = {}
        self._failed_at: dict[str, float] = {}  # monotonic

    async def archive(
        self,
        digest: str,
        packages: Wanted,
        *,
        session_id: SessionId,
        workspace_id: WorkspaceId = DEFAULT_WORKSPACE,
    ) -> AsyncGenerator[bytes, None]:
        """The layer of this digest as a tar; installed for this workspace, on the session's errand, if
        nobody has a fresh one.

        Closing it leaves an installation that is on its way. Raises PackagesFailed, BlobUnavailable."""
        key = await self._stored(digest) or await self._made(digest, packages, session_id, workspace_id)
        try:
            async with aclosing(self._blobs.get(key + _SUM)) as blob:
                sha256 = b"".join([chunk async for chunk in blob]).decode(errors="replace")
            async with aclosing(checked(self._blobs, key, sha256)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (NotFound, BrokenArchive) as error:
            await _forget(self._blobs, key)  # the next one installs anew
            raise BlobUnavailable("a layer of packages is broken", detail=f"{key}: {error}") from error

    async def aclose(self) -> None:
        """Drop what is being installed. Repeat: safe."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._installer.aclose()

    async def _stored(self, digest: str) -> str | None:
        keys = {blob.key async for blob in self._blobs.keys(f"{_PREFIX}{digest}/") if _is_fresh(blob.key)}
        return max((key for key in keys if key + _SUM in keys), key=_made_at, default=None)

    async def _made(
        self, digest: str, packages: Wanted, session_id: SessionId, workspace_id: WorkspaceId
    ) -> str:
        making = self._making.get((digest, workspace_id))
        if making is None:
            making = asyncio.create_task(
                self._make(digest, packages, session_id, workspace_id), name=f"layer {digest[:12]}"
            )
            self._making[digest, workspace_id] = making
            making.add_done_callback(lambda done: self._done((digest, workspace_id), done))
        return await asyncio.shield(making)

    def _done(self, of: tuple[str, WorkspaceId], making: "asyncio.Task[str]") -> None:
        del self._making[of]
        if not making.cancelled():
            making.exception()  # whoever waits is told; perhaps nobody does any more

    async def _make(
        self, digest: str, packages: Wanted, session_id: SessionId, workspace_id: WorkspaceId
    ) -> str:
        ago = time.monotonic() - self._failed_at.pop(digest, float("-inf"))
        await asyncio.sleep(max(0.0, PACKAGES_RETRY_SECONDS - ago))
        await self._count(workspace_id)
        key = f"{_PREFIX}{digest}/{int(time.time())}-{workspace_id}"
        began_at = time.monotonic()
        try:
            installing = self._installer.install(packages, session_id=session_id, workspace_id=workspace_id)
            async with aclosing(installing) as archive:
                blob = await self._blobs.put(key, packed(archive))
            await self._blobs.put(key + _SUM, _once(blob.sha256.encode()))
        except PackagesFailed:
            now = time.monotonic()
            recent = {each: at for each, at in self._failed_at.items() if now - at < PACKAGES_RETRY_SECONDS}
            self._failed_at = {**recent, digest: now}
            raise
        seconds = time.monotonic() - began_at
        log.info(
            "layer %.12s: packages of %s installed in %.1f s, %d bytes packed",  # their URLs may be secret
            digest,
            ", ".join(packages),
            seconds,
            blob.size_bytes,
        )
        await _tidy(self._blobs, LAYERS_STORED_BYTES_MAX, LAYERS_STORED_MAX)
        return key

    async def _count(self, workspace_id: WorkspaceId) -> None:
        """Raises PackagesFailed when this one, with those under way, is one too many of its workspace."""
        day_ago, made = time.time() - _DAY_SECONDS, 0
        async for blob in self._blobs.keys(_PREFIX):
            made += _made_for(blob.key) == workspace_id and _made_at(blob.key) > day_ago
        under_way = sum(whose == workspace_id for _, whose in self._making)
        if made + under_way > LAYERS_MADE_PER_DAY_MAX:
            raise PackagesFailed(
                f"New packages were installed for this workspace {LAYERS_MADE_PER_DAY_MAX} times within a"
                " day, which is as often as this server does it; those that are installed can be used."
            )


async def forget_layers(
    blobs: BlobStore, *, bytes_max: int = LAYERS_STORED_BYTES_MAX, count_max: int = LAYERS_STORED_MAX
) -> None:
    """Remove layers that are not fresh, and the oldest of too many, with a look every LAYER_LOOK_SECONDS.
    Any number of these may run. Runs until cancelled."""
    while True:
        try:
            await _tidy(blobs, bytes_max, count_max)
        except BlobUnavailable as error:
            log.debug("layers that are to go wait: %s", error)
        await asyncio.sleep(LAYER_LOOK_SECONDS)


async def _tidy(blobs: BlobStore, bytes_max: int, count_max: int) -> None:
    found = [blob async for blob in blobs.keys(_PREFIX)]
    for blob in found:  # also sums of layers that are gone
        if blob.key.endswith(_SUM) and not _is_fresh(blob.key, grace_seconds=LAYER_LOOK_SECONDS):
            await blobs.delete(blob.key)
    layers = [blob for blob in found if not blob.key.endswith(_SUM)]
    for blob in _too_many(layers, bytes_max, count_max):
        await _forget(blobs, blob.key)


async def _forget(blobs: BlobStore, key: str) -> None:
    await blobs.delete(key + _SUM)  # first: from then on nobody takes it for whole
    await blobs.delete(key)


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def _too_many(found: Iterable[Blob], bytes_max: int, count_max: int) -> Iterator[Blob]:
    total = 0
    newest_first = sorted(found, key=lambda blob: _made_at(blob.key), reverse=True)
    for number, blob in enumerate(newest_first, start=1):
        total += blob.size_bytes
        # One that is not fresh any more may still be on its way to a host.
        is_fresh = _is_fresh(blob.key, grace_seconds=LAYER_LOOK_SECONDS)
        if number > count_max or total > bytes_max or not is_fresh:
            yield blob


def _made_at(key: str) -> float:
    seconds = key.rpartition("/")[2].partition("-")[0]
    return float(seconds) if seconds.isdecimal() else 0.0


def _made_for(key: str) -> str:
    return key.rpartition("/")[2].partition("-")[2]


def _is_fresh(key: str, *, grace_seconds: float = 0.0) -> bool:
    return time.time() - _made_at(key) < LAYER_FRESH_SECONDS + grace_seconds
