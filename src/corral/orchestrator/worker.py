"""The worker: one per brain process. Runs up to SESSIONS_PER_BRAIN_MAX loops side by side.

Rules of this file:
* A hint starts a loop at once, which claims the session with its first append. Where anything is amiss (no
  room, others that wait, a session that has failed) hints are only a reason to look: the sweep claims in
  batches, the keys in turn, before a loop folds anything. So a session that kills whoever looks at it is
  known after its first victim.
* A brain that dies takes innocent sessions with it. The more often a session has failed, the fewer of its
  kind run at once here (SUSPECTS_AT_ONCE): the last failure before the bound is its own. Who has run for
  SUSPECT_SECONDS is none of them any more. Those that are only to be ended crowd out nobody of their kind.
* A session whose loop fails is backed off alone, in the store; its lease is given back, its log intact.
* A store that is away is nobody's failure: what ran is given back as soon as it is there again, and whoever
  saw the outage claims nothing before others had the time to do so.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from corral.brain.ending import poisoned
from corral.brain.loop import Gear, Loop
from corral.kernel.crash import crash_point
from corral.kernel.errors import LeaseLost, NotFound, StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    AWAKE_SECONDS,
    CLAIM_BATCH_MAX,
    DRAIN_SECONDS,
    IDLE_LOOPS_CHARS_MAX,
    IDLE_LOOPS_MAX,
    LEASE_CHECK_SECONDS,
    LEASE_RENEW_SECONDS,
    LEASE_TRUST_SECONDS,
    REFUSED_SESSIONS_MAX,
    SESSION_FAILURES_MAX,
    SESSIONS_PER_BRAIN_MAX,
    STORE_BACK_SECONDS,
    STORE_LATE_SECONDS,
    SUSPECT_SECONDS,
    SUSPECTS_AT_ONCE,
    SWEEP_PAUSE_SECONDS,
    SWEEP_SECONDS,
)
from corral.kernel.metrics import count, observe
from corral.session.bus import Bus
from corral.session.lease import Lease, LeaseStore, session_backoff_seconds

log = logging.getLogger(__name__)

_End = Literal["done", "released", "failed"]
"""How a loop ended: with nothing left to do, in good order, or otherwise."""


class Worker:
    """`run` until cancelled; `drain` first to hand sessions over through the log."""

    def __init__(
        self,
        gear: Gear,
        *,
        leases: LeaseStore,
        bus: Bus,
        is_ours: Callable[[SessionId], bool] = lambda _: True,
    ) -> None:
        """is_ours: whether this brain is the one to answer a session's wake, for brains that hear the same
        wakes; see `orchestrator.routing`."""
        self._gear = gear
        self._leases = leases
        self._bus = bus
        self._is_ours = is_ours
        self._running: dict[SessionId, tuple[Loop, asyncio.Task[None]]] = {}
        self._idle: OrderedDict[SessionId, tuple[Loop, int]] = OrderedDict()  # folded, and how large
        self._idle_chars = 0
        self._has_backlog = False  # sessions wait for a place: hints may not overtake them
        self._look = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._is_draining = False
        self._cut: dict[
            SessionId, _End
        ] = {}  # loops that are being cancelled: as what they will have ended
        self._looked_at = 0.0  # at the clock
        self._unreturned: list[Lease] = []  # released, but the store was away
        self._refused: OrderedDict[SessionId, int] = OrderedDict()  # how often in a row by the store alone
        self._was_away = self._gives_way = False  # the store; this brain, until `_claims_from`
        self._claims_from = 0.0
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
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                async with self._claiming:
                    pass  # what was being claimed runs by now, to be handed over
                if self._running:
                    await asyncio.wait([task for _, task in self._running.values()])
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        crash_point("brain.after_drain")

    # -- the four duties -----------------------------------------------------------------------------

    async def _take_wakes(self) -> None:
        async for session_id in self._bus.wakes():
            if session_id in self._running or self._is_ours(session_id):
                self._wake(session_id)

    async def _sweep(self) -> None:
        """Find sessions that need a brain and have none, whether or not a hint came."""
        clock = asyncio.get_running_loop().time
        while True:
            self._look.clear()
            if not self._is_draining:
                try:
                    async with self._claiming:
                        await self._return_late()
                        await self._claim_waiting()
                    self._swept_at = clock()
                    self._has_swept.set()
                except StoreUnavailable:
                    self._was_away = True
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._look.wait()
            await asyncio.sleep(SWEEP_PAUSE_SECONDS)

    async def _claim_waiting(self) -> None:
        """Claim a batch of those that wait, and run them."""
        room = min(SESSIONS_PER_BRAIN_MAX - len(self._running), CLAIM_BATCH_MAX)
        if room <= 0:
            return  # a full brain is at work, not stuck
        fresh = sum(loop.lease is None for loop, _ in self._running.values())
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        waiting = await self._leases.waiting(limit=2 * CLAIM_BATCH_MAX + fresh)
        is_back = self._was_away or clock() - looked_at > STORE_LATE_SECONDS
        self._was_away = False
        if is_back and not self._gives_way:  # but not again and again: then it is only slow
            self._gives_way, self._claims_from = True, clock() + STORE_BACK_SECONDS
        if clock() < self._claims_from:
            return  # others may have sessions to give back
        self._gives_way = False
        # What we still have to give back is first given back: a claim would count a failure of it.
        ours = self._running.keys() | {lease.session_id for lease in self._unreturned}
        waiting = [session_id for session_id in waiting if session_id not in ours]
        if not waiting:
            self._has_backlog = False
            return
        admitted = self._admitted(waiting, await self._leases.failures(waiting))
        asked_at = asyncio.get_running_loop().time()
        leases = await self._leases.claim(owner=self._gear.owner, limit=room, session_ids=admitted)
        for lease in leases:
            self._begin(lease, asked_at=asked_at)
        self._has_backlog = len(admitted) > room
        if self._has_backlog:
            self._look.set()

    def _admitted(self, waiting: Sequence[SessionId], failures: Mapping[SessionId, int]) -> list[SessionId]:
        """Those that may run beside the ones that run: not too many suspects at once.

        Those to be ended are many at once, but not beside one that has its last chance: they might kill it.
        """
        admitted = set()
        began_after = asyncio.get_running_loop().time() - SUSPECT_SECONDS
        present = [loop.failures for loop, _ in self._running.values() if loop.held_since > began_after]
        last_chance = range(max(SUSPECTS_AT_ONCE), SESSION_FAILURES_MAX)
        by_end = sorted(waiting, key=lambda each: failures.get(each, 0) < SESSION_FAILURES_MAX)
        for session_id in by_end:  # first: they are short, and each has its last chance but once
            failed = failures.get(session_id, 0)
            if failed >= SESSION_FAILURES_MAX:
                is_admitted = not any(each in last_chance for each in present)
            else:
                is_admitted = all(
                    sum(each >= level for each in present) < most
                    for level, most in SUSPECTS_AT_ONCE.items()
                    if failed >= level
                )
            if is_admitted:
                admitted.add(session_id)
                present.append(failed)
        return [session_id for session_id in waiting if session_id in admitted]

    def _begin(self, lease: Lease, *, asked_at: float) -> None:
        """Run a session whose lease was claimed."""
        running = self._running.get(lease.session_id)
        if running is not None:  # a hint came between
            running[0].hold(lease, asked_at=asked_at)
            running[0].notice()
            return
        loop = self._take_idle(lease.session_id) or Loop(lease.session_id, self._gear)
        loop.hold(lease, asked_at=asked_at)
        self._run(loop)

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
            end = self._cut_off()
            self._looked_at = now
            for loop, task in list(self._running.values()):
                if loop.lease is not None and now > loop.trusted_until and loop.session_id not in self._cut:
                    log.warning("session %s: its lease was not renewed in time", loop.session_id)
                    count("leases_lost")
                    self._cut[loop.session_id] = end
                    task.cancel()
            await asyncio.sleep(LEASE_CHECK_SECONDS)

    def _cut_off(self) -> _End:
        """How a loop ends whose lease was not renewed in time. Who was awake has asked for it, so the store
        was away; who stood still may have done so because of this session."""
        is_awake = asyncio.get_running_loop().time() - self._looked_at < AWAKE_SECONDS
        return "released" if is_awake else "failed"

    # -- loops ----------------------------------------------------------------------------------------

    def _wake(self, session_id: SessionId) -> None:
        running = self._running.get(session_id)
        if running is not None:
            running[0].notice()
        elif self._is_draining:
            return
        elif len(self._running) >= SESSIONS_PER_BRAIN_MAX:
            self._has_backlog = True
        elif self._has_backlog:
            self._look.set()
        else:
            self._run(self._take_idle(session_id) or Loop(session_id, self._gear))

    def _run(self, loop: Loop) -> None:
        if self._is_draining:
            loop.hand_over()
        task = asyncio.create_task(self._run_loop(loop), name=f"loop {loop.session_id}")
        self._running[loop.session_id] = (loop, task)

    async def _run_loop(self, loop: Loop) -> None:
        session_id = loop.session_id
        started_at = asyncio.get_running_loop().time()
        ended: _End = "failed"
        try:
            ended = await self._run_to_end(loop)
        except asyncio.CancelledError:
            ended = "released" if self._is_draining else self._cut.get(session_id, "failed")
            raise
        finally:
            try:
                while loop.lease is not None:
                    await self._give_back(loop, ended)
            finally:  # not before: a hint that comes meanwhile would begin a second loop in vain
                del self._running[session_id]
                self._cut.pop(session_id, None)
        if self._has_backlog or loop.wants_claim:
            self._look.set()
        if ended == "done":
            observe("turn_seconds", asyncio.get_running_loop().time() - started_at)
        if ended == "done" and not self._is_draining:
            self._keep(loop)
            if loop.has_news:
                self._wake(session_id)

    async def _run_to_end(self, loop: Loop) -> _End:
        session_id = loop.session_id
        try:
            if loop.lease is not None and loop.lease.failures > SESSION_FAILURES_MAX:
                await self._close(loop.lease)
                return "released"
            await loop.run()
        except LeaseLost:
            # Somebody else goes on from here; if nobody does, it is backed off.
            is_late = asyncio.get_running_loop().time() > loop.trusted_until
            return self._cut.get(session_id) or (self._cut_off() if is_late else "failed")
        except NotFound:
            return "released"  # the session is gone
        except StoreUnavailable as error:
            log.warning("session %s: the store is unavailable, will try again: %s", session_id, error)
            if not error.retryable:
                return "failed"
            before = self._refused.pop(session_id, 0)
            self._refused[session_id] = 1 if loop.got_on else before + 1
            if len(self._refused) > REFUSED_SESSIONS_MAX:
                self._refused.popitem(last=False)
            return "released"
        except Exception:
            count("loops_failed")
            log.exception("session %s: its loop failed; its log is intact, will try again", session_id)
            if loop.lease is None:
                await self._blame(loop)
            return "failed"
        return "done"

    async def _close(self, lease: Lease) -> None:
        """The last resort: even the brains that only wanted to end its turn have died."""
        log.error("session %s: %d brains failed at it, its turn is ended", lease.session_id, lease.failures)
        stored = await self._gear.log.close_turn(
            lease, message=poisoned(lease.failures), now=self._gear.clock.now()
        )
        left = [event.answers for event in stored if event.answers is not None]
        self._gear.dispatch.left_behind(lease.session_id, left, epoch=lease.epoch)

    async def _blame(self, loop: Loop) -> None:
        """It failed before it had a lease: take one, so that the failure can be counted."""
        with suppress(StoreUnavailable):
            loop.lease = await self._gear.claim(loop.session_id)

    async def _give_back(self, loop: Loop, ended: _End) -> None:
        lease, loop.lease = loop.lease, None
        assert lease is not None
        if ended == "done":
            self._refused.pop(loop.session_id, None)
        try:
            if ended == "failed":
                await self._leases.fail([lease])
            elif ended == "done" and loop.rests_at is not None:
                seen_seq, seen_arrival = loop.rests_at
                await self._leases.rest(lease, seen_seq=seen_seq, seen_arrival=seen_arrival)
            else:
                pause = session_backoff_seconds(self._refused.get(loop.session_id, 0))
                await self._leases.release([lease], pause_seconds=pause)
                if self._is_draining:
                    self._bus.wake(loop.session_id)  # for another brain
        except StoreUnavailable:
            if ended == "released":
                self._unreturned.append(lease)

    async def _return_late(self) -> None:
        """Give back what was released while the store was away. Raises StoreUnavailable."""
        if self._unreturned:
            late = list(self._unreturned)
            await self._leases.release(late)
            del self._unreturned[: len(late)]

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

    def _lose(self, lease: Lease) -> None:
        """The store says that this lease is over: stop the loop if it still goes by it."""
        running = self._running.get(lease.session_id)
        if running is not None and running[0].lease == lease:
            running[0].lease = None
            count("leases_lost")
            running[1].cancel()
