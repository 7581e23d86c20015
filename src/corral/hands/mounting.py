"""The brain's side of mounts: which a session has, and how its host gets those that it lacks.

One bringing of a mount at a time in this process: who asks for one that is on its way waits for it. A
source that fails for now is asked again a few times; then the session goes on without the mount
(`MountFailed`).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from corral.hands.memory_sync import MemorySync
from corral.kernel.errors import (
    BlobUnavailable,
    CallerError,
    CorralError,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    StoreUnavailable,
    WorldError,
)
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    MEMORY_SYNC_SECONDS,
    MOUNT_ATTEMPTS_MAX,
    MOUNT_RETRY_SECONDS,
    MOUNT_SECONDS_MAX,
    PLACEMENTS_CACHED_MAX,
    RESOURCES_FRESH_SECONDS,
)
from corral.session.call import Mount, Recipe, ToolCall
from corral.session.content import Json, ToolResult, text_block
from corral.session.mounts import Attached, MountFailed, MountSource
from corral.session.resources import Resource

__all__ = ["MountTaker", "Mounting"]

log = logging.getLogger(__name__)

_FOR_NOW: Final = (BlobUnavailable, StoreUnavailable)

# An earlier epoch's is not waited for: the host refuses it, and that is nobody else's failure.
_Key = tuple[SessionId, str, str, int]  # of a mount on its way: its id and digest, and for which epoch
_MENDED: Final = frozenset({"repository"})  # kinds of mounts of which an update changes what they come by
_READERS: Final = frozenset({"read", "glob", "grep"})  # calls that change nothing


class MountTaker(Protocol):
    """The host of a session, or who knows the way to it: `HandsClient`, `HandsRouter`."""

    async def missing(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> Sequence[str]: ...

    async def put_mount(
        self, session_id: SessionId, mount: Mount, archive: AsyncIterator[bytes], *, epoch: int
    ) -> None: ...


class Mounting:
    """`corral.brain.ports.Mounts`, shared by all loops of a brain."""

    def __init__(
        self,
        hands: MountTaker,
        *,
        resources: Callable[[SessionId], Awaitable[Sequence[Mapping[str, Json]]]],
        sources: Mapping[str, MountSource],
        memory: MemorySync | None = None,
    ) -> None:
        """resources: what is attached to a session now, as the store keeps it; raises NotFound.
        sources: by the kind of their mounts. memory: what keeps memory stores, which no source brings."""
        self._hands = hands
        self._resources = resources
        self._sources = dict(sources) if memory is None else {**sources, "memory": memory}
        self._memory = memory
        self._known: OrderedDict[SessionId, tuple[float, Sequence[Mapping[str, Json]]]] = OrderedDict()
        self._bringing: dict[_Key, asyncio.Task[None]] = {}

    def learn(self, session_id: SessionId, resources: Sequence[Resource], *, asked_at: float) -> None:
        self._keep(session_id, [resource.known for resource in resources], asked_at)

    async def of(
        self, session_id: SessionId, agent: Mapping[str, Json], environment: Mapping[str, Json]
    ) -> Sequence[Mount]:
        clock = asyncio.get_running_loop().time
        asked_at, resources = self._known.get(session_id, (-RESOURCES_FRESH_SECONDS, ()))
        if clock() - asked_at >= RESOURCES_FRESH_SECONDS:
            asked_at = clock()
            resources = await self._resources(session_id)
            self._keep(session_id, resources, asked_at)
        attached = Attached(
            session_id=session_id, agent=agent, resources=resources, environment=environment
        )
        return [mount for source in self._sources.values() for mount in await source.mounts(attached)]

    def _keep(
        self, session_id: SessionId, resources: Sequence[Mapping[str, Json]], asked_at: float
    ) -> None:
        self._known[session_id] = (asked_at, resources)
        self._known.move_to_end(session_id)
        if len(self._known) > PLACEMENTS_CACHED_MAX:
            self._known.popitem(last=False)

    async def bring(self, session_id: SessionId, mounts: Sequence[Mount], *, epoch: int) -> None:
        for mount in mounts:
            key = (session_id, mount.mount_id, mount.digest, epoch)
            is_earlier = key in self._bringing
            try:
                await self._joined(key, mount)
            except MountFailed as failed:
                # What began before we asked may have failed for what has been mended since: a token, say.
                if not is_earlier or mount.kind not in _MENDED:
                    failed.is_needed = mount.kind == "packages"  # the environment is nothing without
                    raise
                await self._joined(key, mount)

    async def _joined(self, key: _Key, mount: Mount) -> None:
        """Bring it, or wait for who does. Raises as `bring`."""
        task = self._bringing.get(key)
        if task is None:
            session_id, _, _, epoch = key
            task = asyncio.create_task(self._bring(session_id, mount, epoch), name=f"mount {key}")
            self._bringing[key] = task
            task.add_done_callback(lambda done: self._brought(key, done))
        await asyncio.shield(task)

    async def warm(self, session_id: SessionId, recipe: Recipe, *, epoch: int) -> None:
        missing = set(await self._hands.missing(session_id, epoch=epoch, recipe=recipe))
        for mount in recipe.mounts:
            if mount.mount_id in missing:
                with suppress(MountFailed):  # the call that needs it says so
                    await self.bring(session_id, [mount], epoch=epoch)

    async def before(self, call: ToolCall, *, epoch: int) -> None:
        if self._memory is not None:
            with suppress(CallerError, WorldError):  # the call itself finds out; and it may do without
                await self._memory.pull(call.session_id, call.recipe.memory, epoch=epoch)

    async def after(self, call: ToolCall, result: ToolResult) -> ToolResult:
        if self._memory is None or not call.recipe.memory or call.name in _READERS:
            return result
        try:
            async with asyncio.timeout(MEMORY_SYNC_SECONDS):
                told = await self._memory.push(call.session_id, call.recipe.memory)
        except (TimeoutError, CallerError, WorldError) as error:
            log.warning("session %s: its memory is saved later: %s", call.session_id, error)
            return result
        if not told:
            return result
        return ToolResult(content=(*result.content, text_block("\n".join(told))), is_error=result.is_error)

    async def aclose(self) -> None:
        """Drop what is on its way: the next brain brings it."""
        tasks = list(self._bringing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _brought(self, key: _Key, task: "asyncio.Task[None]") -> None:
        del self._bringing[key]
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; perhaps nobody does any more

    async def _bring(self, session_id: SessionId, mount: Mount, epoch: int) -> None:
        try:
            async with asyncio.timeout(MOUNT_SECONDS_MAX):
                for attempt in range(MOUNT_ATTEMPTS_MAX):
                    try:
                        await self._put(session_id, mount, epoch)
                        return
                    except _FOR_NOW as error:
                        if attempt == MOUNT_ATTEMPTS_MAX - 1:
                            raise MountFailed.unknown(
                                f"{_named(mount)} cannot be read now: {error.message}", detail=error.detail
                            ) from error
                        await asyncio.sleep(MOUNT_RETRY_SECONDS)
        except TimeoutError as error:
            raise MountFailed.unknown(
                f"{_named(mount)} was not there within {MOUNT_SECONDS_MAX:.0f} s.", mount_id=mount.mount_id
            ) from error
        except MountFailed as failed:
            log.warning("session %s: mount %s failed: %s", session_id, mount.mount_id, failed)
            failed.mount_id = mount.mount_id
            raise

    async def _put(self, session_id: SessionId, mount: Mount, epoch: int) -> None:
        if mount.kind == "memory" and self._memory is not None:
            await self._memory.fill(session_id, mount, epoch=epoch)
            return
        source = self._sources.get(mount.kind)
        if source is None:
            raise MountFailed.unknown(f"{_named(mount)} cannot be mounted by this server.")
        archive = source.open(session_id, mount)
        try:
            await self._hands.put_mount(session_id, mount, archive, epoch=epoch)
        except (InvalidRequest, RequestTooLarge) as error:
            raise MountFailed.unknown(f"{_named(mount)} was refused: {error.message}") from error
        except (NotFound, LeaseLost, WorldError):
            raise
        except (CorralError, ValueError, OSError) as error:
            raise MountFailed.unknown(f"{_named(mount)} cannot be read.", detail=repr(error)) from error
        finally:
            if (aclose := getattr(archive, "aclose", None)) is not None:
                await aclose()


def _named(mount: Mount) -> str:
    return f"The {mount.kind} at {mount.path}"
