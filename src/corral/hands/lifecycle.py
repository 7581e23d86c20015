"""The life of sandboxes on one host: made on first use, one per session, destroyed only here.

    absent --use/warm--> creating --> idle <--> busy          busy: `users` > 0
       ^                                |         |
       +--- idle too long, evicted, dead, released +

Rules of this file:
- `_Slot.lock` is held while a session's sandbox is made or destroyed, so there are never two at once.
- `users` counts whoever is in or on the way to the sandbox; eviction takes only slots without users.
- Making and destroying always run to their end, even when their caller is cancelled: a half-made
  sandbox would have no owner.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from corral.catalog.sandbox import provider_named
from corral.hands.news import NEWS_MOVED
from corral.hands.ports import Provider, Sandbox
from corral.hands.wire import LiveSandbox
from corral.hands.workspace import Workspaces
from corral.kernel.clock import Clock
from corral.kernel.crash import crash_point
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    SANDBOX_CREATE_SECONDS_MAX,
    SANDBOX_REAP_SECONDS,
    SANDBOX_WAIT_SECONDS_MAX,
)
from corral.session.call import Recipe

__all__ = ["Sandboxes"]

T = TypeVar("T")
_DOCUMENTED: Final = ("/workspace", "/mnt/session/outputs", "/mnt/session/uploads", "/mnt/memory", "/tmp")  # noqa: S108


@dataclass(kw_only=True, slots=True)
class _Slot:
    session_id: SessionId
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sandbox: Sandbox | None = None
    recipe: Recipe | None = None
    users: int = 0
    idle_since: float = 0.0  # monotonic
    news: str | None = None  # what its next call tells the model about it; None: not looked up yet


class Sandboxes:
    def __init__(
        self,
        provider: Provider,
        *,
        workspaces: Workspaces,
        clock: Clock,
        sandboxes_max: int,
        idle_seconds: float,
        on_evicted: Callable[[SessionId], None] = lambda session_id: None,
    ) -> None:
        """on_evicted: told of each session whose sandbox went because nobody used it."""
        self._provider = provider
        self._workspaces = workspaces
        self._clock = clock
        self._sandboxes_max = sandboxes_max
        self._idle_seconds = idle_seconds
        self._on_evicted = on_evicted
        self._slots: dict[SessionId, _Slot] = {}
        self._places_taken = 0  # sandboxes that live or are being made
        self._place_freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def use(self, session_id: SessionId, *, recipe: Recipe) -> AsyncIterator[Sandbox]:
        """The session's sandbox, made if needed; it is not evicted while in use.

        Waits for a place when SANDBOXES_MAX are busy, for SANDBOX_WAIT_SECONDS_MAX. A recipe of other walls
        replaces a sandbox that nobody else uses. Raises SandboxUnavailable.
        """
        # Counted from here: calls of one session wait behind each other, and not in turn for that long.
        deadline = asyncio.get_running_loop().time() + SANDBOX_WAIT_SECONDS_MAX
        slot = self._slots.setdefault(session_id, _Slot(session_id=session_id))
        slot.users += 1
        try:
            async with slot.lock:
                if slot.sandbox and (
                    not slot.sandbox.is_alive or (not _fits(slot, recipe) and slot.users == 1)
                ):
                    await _to_its_end(self._destroy(slot))
                if slot.sandbox is None:
                    await self._take_place(deadline)
                    await _to_its_end(self._create(slot, recipe))
                sandbox = slot.sandbox
            assert sandbox is not None
            yield sandbox
        finally:
            slot.users -= 1
            slot.idle_since = self._clock.monotonic()
            self._drop_if_empty(slot)
            self._place_freed.set()  # it can be evicted now

    async def warm(self, session_id: SessionId, *, recipe: Recipe) -> None:
        """Make the sandbox if there is a free place; evicts nobody. Raises SandboxUnavailable."""
        if session_id in self._slots or self._places_taken >= self._sandboxes_max:
            return
        async with self.use(session_id, recipe=recipe):
            pass

    async def destroy(self, session_id: SessionId) -> None:
        """Destroy the session's sandbox; calls in it end with SandboxLost. Repeat: safe."""
        slot = self._slots.get(session_id)
        if slot:
            async with slot.lock:
                await _to_its_end(self._destroy(slot))
            self._drop_if_empty(slot)

    async def destroy_all(self) -> None:
        await asyncio.gather(*(self.destroy(session_id) for session_id in list(self._slots)))

    def place(self, session_id: SessionId) -> str:
        """What the model must be told of where its directories are; "" where they are as documented."""
        workspace = self._workspaces.path(session_id)
        moved = {path: self._provider.seen(workspace, path) for path in _DOCUMENTED}
        if all(path == here for path, here in moved.items()):
            return ""
        return NEWS_MOVED.format(where=", ".join(f"{path} is {here}" for path, here in moved.items()))

    def news(self, session_id: SessionId) -> str | None:
        """What the next call in the session's sandbox must tell the model; None if nobody has set it."""
        slot = self._slots.get(session_id)
        return slot.news if slot else ""

    def set_news(self, session_id: SessionId, news: str) -> None:
        if slot := self._slots.get(session_id):
            slot.news = news

    def live(self) -> list[LiveSandbox]:
        now = self._clock.monotonic()
        return [
            LiveSandbox(
                session_id=slot.session_id,
                provider=_provider_of(slot) or self._provider.name,
                is_busy=slot.users > 0,
                idle_seconds=0.0 if slot.users else now - slot.idle_since,
            )
            for slot in self._slots.values()
            if slot.sandbox
        ]

    async def reap_forever(self) -> None:
        while True:
            await asyncio.sleep(SANDBOX_REAP_SECONDS)
            await self.reap()

    async def reap(self) -> None:
        """Destroy every sandbox that died or has been idle for too long."""
        oldest = self._clock.monotonic() - self._idle_seconds
        for slot in list(self._slots.values()):
            if slot.sandbox and (not slot.sandbox.is_alive or slot.idle_since <= oldest):
                await self._evict(slot)

    async def _take_place(self, deadline: float) -> None:
        """Count one more sandbox, after evicting the one idle for longest if there are too many."""
        try:
            async with asyncio.timeout_at(deadline):
                while self._places_taken >= self._sandboxes_max:
                    await self._free_one()
        except TimeoutError as error:
            raise SandboxUnavailable(
                f"all {self._sandboxes_max} sandboxes of this host have been busy for"
                f" {SANDBOX_WAIT_SECONDS_MAX:.0f} s; try again later"
            ) from error
        self._places_taken += 1

    async def _free_one(self) -> None:
        idle = [s for s in self._slots.values() if s.sandbox and not s.users and not s.lock.locked()]
        if idle:
            await self._evict(min(idle, key=lambda slot: slot.idle_since))
        else:
            self._place_freed.clear()  # nothing was awaited since the look: no news is missed
            await self._place_freed.wait()

    async def _evict(self, slot: _Slot) -> None:
        if slot.users:  # a dead sandbox under a call: the call finds out by itself
            return
        async with slot.lock:
            if not slot.users:
                await _to_its_end(self._destroy(slot))
                self._on_evicted(slot.session_id)
        self._drop_if_empty(slot)

    async def _create(self, slot: _Slot, recipe: Recipe) -> None:
        try:
            async with asyncio.timeout(SANDBOX_CREATE_SECONDS_MAX):
                workspace = await self._workspaces.prepare(slot.session_id)
                crash_point("hands.before_sandbox")
                slot.sandbox = await self._provider.create(
                    session_id=slot.session_id, workspace=workspace, recipe=recipe
                )
                crash_point("hands.after_sandbox")
        except TimeoutError as error:
            raise SandboxUnavailable(
                f"no sandbox came up within {SANDBOX_CREATE_SECONDS_MAX:.0f} s; run `corral doctor`"
            ) from error
        finally:
            slot.recipe, slot.news = recipe, None
            if slot.sandbox is None:
                self._free_place()

    async def _destroy(self, slot: _Slot) -> None:
        if slot.sandbox:
            await slot.sandbox.destroy()
            slot.sandbox = None
            self._free_place()

    def _free_place(self) -> None:
        self._places_taken -= 1
        self._place_freed.set()

    def _drop_if_empty(self, slot: _Slot) -> None:
        is_empty = slot.sandbox is None and not slot.users and not slot.lock.locked()
        if is_empty and self._slots.get(slot.session_id) is slot:
            del self._slots[slot.session_id]


def _provider_of(slot: _Slot) -> str | None:
    return None if slot.recipe is None else provider_named(slot.recipe.environment)


def _fits(slot: _Slot, recipe: Recipe) -> bool:
    return slot.recipe is not None and slot.recipe.fits(recipe)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` through any cancellation of the caller, which is passed on afterwards."""
    cancelled: asyncio.CancelledError | None = None
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        task.exception()  # seen; the cancellation goes first
        raise cancelled
    return task.result()
