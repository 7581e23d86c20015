"""The worker: who gets a brain."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from corral.brain.loop import Gear
from corral.kernel.errors import NotFound
from corral.kernel.ids import Ids, SessionId
from corral.orchestrator.worker import Worker
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.sessions import new_session, user_message

FAILING = 80


class BrokenLog:
    """A log that cannot be read, but for the session that waits behind all others."""

    def __init__(self, last: SessionId) -> None:
        self.found = asyncio.Event()
        self._last = last

    async def snapshot(self, session_id: SessionId, *, after_seq: int = 0) -> None:
        if session_id == self._last:
            self.found.set()
            raise NotFound("seen")
        raise RuntimeError("a bug")


async def test_many_failing_sessions_do_not_hide_the_one_behind_them(tmp_path: Path) -> None:
    start, ids, bus = datetime(2026, 11, 20, tzinfo=UTC), Ids(), LocalBus()
    clock = ManualClock(start)
    database = await Database.open(tmp_path / "corral.db", clock=clock)
    sessions = Sessions(database, LocalBus(), clock)  # another bus: no hint comes
    for number in range(FAILING + 1):
        record = new_session(ids, start + timedelta(seconds=number))
        await sessions.create(record, initial=[user_message(ids)])
        clock.advance(1)
    log = BrokenLog(record.session_id)
    gear = cast(Gear, _Gear(log=log, owner="brain-1"))
    running = asyncio.create_task(Worker(gear, leases=Leases(database), bus=bus).run())
    async with asyncio.timeout(10):
        await log.found.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await database.close()


class _Gear:
    """The parts of a gear that a loop needs before it has read anything."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)
