"""The worker: one per brain process. Runs up to SESSIONS_PER_BRAIN_MAX loops side by side.

A session whose loop fails by our own bug is backed off alone; its lease is given back, its log intact.
"""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

from corral.brain.loop import Gear, Loop
from corral.kernel.crash import crash_point
from corral.kernel.errors import LeaseLost, NotFound, StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    DRAIN_SECONDS,
    IDLE_LOOPS_CHARS_MAX,
    IDLE_LOOPS_MAX,
    LEASE_CHECK_SECONDS,
    LEASE_RENEW_SECONDS,
    LEASE_TRUST_SECONDS,
    SESSION_BACKOFF_SECONDS,
    SESSION_BACKOFF_SECONDS_MAX,
    SESSIONS_PER_BRAIN_MAX,
    SWEEP_SECONDS,
)
from corral.session.bus import Bus
from corral.session.lease import Lease, LeaseStore

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class _Failing:
    failures: int
    not_before: float


class Worker:
    """`run` until cancelled; `drain` first to hand sessions over through the log."""

    def __init__(self, gear: Gear, *, leases: LeaseStore, bus: Bus) -> None:
        self._gear = gear
        self._leases = leases
        self._bus = bus
        self._running: dict[SessionId, tuple[Loop, asyncio.Task[None]]] = {}
        self._idle: OrderedDict[SessionId, tuple[Loop, int]] = OrderedDict()  # folded, and how large
        self._idle_chars = 0
        self._failing: dict[SessionId, _Failing] = {}
        self._is_draining = False
        self._swept_at = 0.0
        self._has_swept = asyncio.Event()

    @property
    def running_sessions(self) -> int:
        return len(self._running)

    async def sweep_age_seconds(self) -> float:
        """Seconds since the last good sweep: whether this brain is claiming. Waits for the first one."""
        await self._has_swept.wait()
        return asyncio.get_running_loop().time() - self._swept_at

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_wakes())
            group.create_task(self._sweep())
            group.create_task(self._renew())
            group.create_task(self._distrust())

    async def drain(self) -> None:
        """Start nothing more; wait up to DRAIN_SECONDS for model requests; give every lease back."""
        crash_point("brain.before_drain")
        self._is_draining = True
        for loop, _ in self._running.values():
            loop.hand_over()
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        crash_point("brain.after_drain")

    # -- the four duties -----------------------------------------------------------------------------

    async def _take_wakes(self) -> None:
        async for session_id in self._bus.wakes():
            self._wake(session_id)

    async def _sweep(self) -> None:
        """Find sessions that need a brain and have none, whether or not a hint came."""
        clock = asyncio.get_running_loop().time
        while True:
            room = SESSIONS_PER_BRAIN_MAX - len(self._running)
            if room > 0 and not self._is_draining:
                # The oldest come first, and those that are backed off stay in front: they take no room.
                held_back = sum(clock() < failing.not_before for failing in self._failing.values())
                with suppress(StoreUnavailable):
                    for session_id in await self._leases.waiting(limit=room + held_back):
                        self._wake(session_id)
                    self._swept_at = clock()
                    self._has_swept.set()
            elif room <= 0:
                self._swept_at = clock()  # a full brain is at work, not stuck
            await asyncio.sleep(SWEEP_SECONDS)

    async def _renew(self) -> None:
        """Extend the leases of running loops."""
        while True:
            held = {loop.lease: loop for loop, _ in self._running.values() if loop.lease}
            asked_at = asyncio.get_running_loop().time()
            if held:
                with suppress(StoreUnavailable):
                    for lease in await self._leases.renew(list(held)):
                        held.pop(lease).trusted_until = asked_at + LEASE_TRUST_SECONDS
                    for lease in held:
                        self._lose(lease)
            await asyncio.sleep(LEASE_RENEW_SECONDS)

    async def _distrust(self) -> None:
        """Stop loops whose lease was not renewed in time, however long the store takes to say so."""
        while True:
            now = asyncio.get_running_loop().time()
            for loop, task in list(self._running.values()):
                if loop.lease is not None and now > loop.trusted_until:
                    log.warning("session %s: its lease was not renewed in time", loop.session_id)
                    task.cancel()
            await asyncio.sleep(LEASE_CHECK_SECONDS)

    # -- loops ----------------------------------------------------------------------------------------

    def _wake(self, session_id: SessionId) -> None:
        running = self._running.get(session_id)
        if running is not None:
            running[0].notice()
            return
        failing = self._failing.get(session_id)
        if (
            self._is_draining
            or len(self._running) >= SESSIONS_PER_BRAIN_MAX
            or (failing is not None and asyncio.get_running_loop().time() < failing.not_before)
        ):
            return  # the sweep finds it again
        loop = self._take_idle(session_id) or Loop(session_id, self._gear)
        task = asyncio.create_task(self._run_loop(loop), name=f"loop {session_id}")
        self._running[session_id] = (loop, task)

    async def _run_loop(self, loop: Loop) -> None:
        session_id = loop.session_id
        is_whole = False
        try:
            await loop.run()
            self._failing.pop(session_id, None)
            is_whole = True
        except LeaseLost:
            pass  # somebody else goes on from here
        except NotFound:  # the session is gone
            self._failing.pop(session_id, None)
        except StoreUnavailable as error:
            log.warning(
                "session %s: the store is unavailable, will try again: %s", session_id, error.message
            )
            self._back_off(session_id)
        except Exception:
            log.exception("session %s: its loop failed; its log is intact, will try again", session_id)
            self._back_off(session_id)
        finally:
            del self._running[session_id]
            if loop.lease is not None:
                await self._give_back(loop)
        if is_whole and not self._is_draining:
            self._keep(loop)
            if loop.has_news:
                self._wake(session_id)

    async def _give_back(self, loop: Loop) -> None:
        lease, loop.lease = loop.lease, None
        assert lease is not None
        with suppress(StoreUnavailable):
            await self._leases.release([lease])

    def _keep(self, loop: Loop) -> None:
        """Keep the folded state for the next wake; the oldest make room."""
        chars = loop.chars
        self._idle[loop.session_id] = loop, chars
        self._idle_chars += chars
        while len(self._idle) > IDLE_LOOPS_MAX or self._idle_chars > IDLE_LOOPS_CHARS_MAX:
            self._take_idle(next(iter(self._idle)))

    def _take_idle(self, session_id: SessionId) -> Loop | None:
        loop, chars = self._idle.pop(session_id, (None, 0))
        self._idle_chars -= chars
        return loop

    def _back_off(self, session_id: SessionId) -> None:
        failing = self._failing.setdefault(session_id, _Failing(failures=0, not_before=0.0))
        failing.failures += 1
        wait = min(SESSION_BACKOFF_SECONDS * 2.0 ** (failing.failures - 1), SESSION_BACKOFF_SECONDS_MAX)
        failing.not_before = asyncio.get_running_loop().time() + wait

    def _lose(self, lease: Lease) -> None:
        """The store says that this lease is over: stop the loop if it still goes by it."""
        running = self._running.get(lease.session_id)
        if running is not None and running[0].lease == lease:
            running[0].lease = None
            running[1].cancel()
