"""Workers on one store whose clock is set by hand, before a real model API on a real socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from corral.brain.dispatch import Dispatch
from corral.brain.loop import Gear
from corral.brain.models.anthropic import AnthropicModel
from corral.catalog.models import ModelTable
from corral.hands.client import HandsClient
from corral.kernel.ids import Ids, SessionId
from corral.orchestrator.worker import Worker
from corral.session.bus import Bus
from corral.session.kill import KillTarget
from corral.session.lease import Lease
from corral.session.log import Snapshot
from corral.session.record import SessionRecord
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.kill import Kills
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.messages_api import MessagesApi
from corral.testing.sessions import new_session, user_message

T = TypeVar("T")


@dataclass(kw_only=True)
class Cluster:
    """Brains of one process that share a store and nothing else: their sweep has to find everything."""

    clock: ManualClock
    database: Database
    model: AnthropicModel
    hands: HandsClient
    ids: Ids = field(default_factory=Ids)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bus: Bus = LocalBus()
        self.leases = Leases(self.database)
        self.log = Log(self.database, self.bus)
        self.sessions = Sessions(self.database, self.bus, self.clock)
        self.kills = Kills(self.database, self.bus)

    def worker(self, owner: str) -> Worker:
        """Another brain, running."""
        gear = self.gear(owner)
        worker = Worker(gear, leases=self.leases, bus=gear.bus)
        self.tasks.append(asyncio.create_task(worker.run()))
        return worker

    def gear(self, owner: str) -> Gear:
        """What a loop of that brain needs."""

        async def claim(session_id: SessionId) -> Lease | None:
            claimed = await self.leases.claim(owner=owner, limit=1, session_ids=[session_id])
            return claimed[0] if claimed else None

        bus = LocalBus()
        return Gear(
            owner=owner,
            claim=claim,
            log=Log(self.database, bus),
            bus=bus,
            model=self.model,
            models=ModelTable.packaged(),
            dispatch=Dispatch(self.hands),
            clock=self.clock,
            ids=self.ids,
        )

    async def session(self, text: str = "hi", *, key: str | None = None) -> SessionRecord:
        """A session with a message that nobody has looked at."""
        self.clock.advance(0.001)
        record = new_session(self.ids, self.clock.now())
        agent = {**record.agent, "model": {"id": "claude-opus-5-5"}, "system": None}
        threads = [replace(thread, agent=agent) for thread in record.threads]
        record = replace(record, agent=agent, threads=threads, api_key_id=key)
        return await self.sessions.create(record, initial=[user_message(self.ids, text)])

    async def kill_all(self, reason: str) -> None:
        now = self.clock.now()
        await self.kills.kill(KillTarget(workspace_id=None), reason=reason, now=now, after=None, before=now)

    async def settled(
        self, session_id: SessionId, *, seconds: float = 60.0, advance: float = 0.2
    ) -> Snapshot:
        """The session once it is idle with nothing waiting; the store's time runs ten times as fast.
        advance: of it, in seconds, with each look."""

        async def look() -> Snapshot | None:
            seen = await self.log.snapshot(session_id)
            self.clock.advance(advance)
            return seen if seen.record.status == "idle" and not seen.inbox and seen.events else None

        return await until(look, seconds=seconds, every=0.02)


async def until(
    look: Callable[[], Awaitable[T | None]], *, seconds: float = 60.0, every: float = 0.01
) -> T:
    """The first value that is true, of what has no signal of its own."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):  # noqa: ASYNC110
            await asyncio.sleep(every)
    return found


@asynccontextmanager
async def cluster(api: MessagesApi, directory: Path) -> AsyncIterator[Cluster]:
    clock = ManualClock()
    database = await Database.open(directory / "corral.db", clock=clock)
    model = AnthropicModel(api_key="upstream-key", base_url=api.url, models=ModelTable.packaged())
    hands = HandsClient(directory / "nobody.sock", token="none")
    opened = Cluster(clock=clock, database=database, model=model, hands=hands)
    try:
        yield opened
    finally:
        for task in opened.tasks:
            task.cancel()
        await asyncio.gather(*opened.tasks, return_exceptions=True)
        await model.aclose()
        await hands.aclose()
        await database.close()
