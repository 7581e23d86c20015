"""The same random operations on SQLite, on PostgreSQL and on the oracle, compared after each step.

A failing run prints its seed; `CORRAL_SEED=n` repeats it.
"""

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from corral.kernel.errors import Conflict, CorralError
from corral.kernel.ids import EventId, Ids, SessionId
from corral.session.events import Event, UserInterrupt
from corral.session.lease import Claim, Lease
from corral.session.log import Append, EventFilter, InboxEntry, Position, Snapshot, StoredEvent
from corral.session.record import SessionChanges, Status
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.oracle import Oracle
from corral.testing.postgres import missing as no_postgres
from corral.testing.reader import TailReader
from corral.testing.sessions import (
    Draft,
    agent_message,
    custom_tool_result,
    custom_tool_use,
    new_session,
    user_message,
)

T = TypeVar("T")

STEPS = 600
SEEDS = [int(os.environ["CORRAL_SEED"])] if "CORRAL_SEED" in os.environ else [1, 2, 3]

ENGINES = ("sqlite", "postgres")
seen_outcomes: dict[str, Counter[str]] = {engine: Counter() for engine in ENGINES}
"""For each engine: `operation: outcome`, over all seeds."""


class Run:
    """One run: the store, the oracle, and brains with good and bad memories."""

    def __init__(self, database: Database, clock: ManualClock, seed: int, outcomes: Counter[str]) -> None:
        self.outcomes = outcomes
        self.random = random.Random(seed)
        self.clock = clock
        self.ids = Ids(
            now_ms=lambda: int(clock.now().timestamp() * 1000), random_bytes=self.random.randbytes
        )
        bus = LocalBus()
        self.log, self.leases = Log(database, bus), Leases(database)
        self.sessions = Sessions(database, bus, clock, ids=self.ids)
        self.oracle = Oracle(clock)
        self.known: list[SessionId] = []
        self.held: list[Lease] = []  # granted once, maybe lost since
        self.snapshots: dict[SessionId, Snapshot] = {}  # old memories
        self.sent: list[Append] = []
        self.readers: dict[SessionId, TailReader] = {}

    async def step(self) -> None:
        self.clock.advance(self.random.choice((0.000001, 0.001, 0.5)))
        name = self.random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        if not self.known:
            name = "create"
        outcome = await getattr(self, name)()
        if outcome is not None:
            self.outcomes[f"{name}: {outcome}"] += 1
        await self._compare()

    async def both(
        self, store: Awaitable[T], oracle: Callable[[], object], compare: Callable[[T], object]
    ) -> str:
        """The same operation on both: equal results, or equal errors."""
        try:
            expected: object = oracle()
        except CorralError as error:
            with pytest.raises(type(error)):
                await store
            return type(error).__name__
        assert compare(await store) == expected
        return "ok"

    # -- operations -----------------------------------------------------------------------------------

    async def create(self) -> str:
        key = self.random.choice((None, "apikey_1", "apikey_2"))
        record = replace(new_session(self.ids, self.clock.now()), api_key_id=key)
        initial = [user_message(self.ids) for _ in range(self.random.choice((0, 0, 1, 2)))]
        self.oracle.create(record, initial=initial)
        stored = await self.sessions.create(record, initial=initial)
        assert (stored.status, stored.last_arrival) == ("running" if initial else "idle", len(initial))
        self.known.append(record.session_id)
        self.readers[record.session_id] = TailReader(record.session_id)
        return "with initial events" if initial else "ok"

    async def accept(self) -> str:
        session_id = self._any()
        inputs = [self._input(session_id) for _ in range(self.random.choice((1, 1, 2)))]
        now = self.clock.now()
        return await self.both(
            self.log.accept(session_id, inputs, now=now),
            lambda: self.oracle.accept(session_id, inputs, now=now),
            lambda entries: [entry.event_id for entry in entries],
        )

    def _input(self, session_id: SessionId) -> Event:
        uses = self._uses(session_id)
        if uses and self.random.random() < 0.5:
            return custom_tool_result(self.ids, self.random.choice(uses))
        if self.random.random() < 0.05:
            return custom_tool_result(self.ids, self.ids.event())  # answers nothing
        if self.random.random() < 0.2:
            return UserInterrupt(id=self.ids.event(), type=UserInterrupt.TYPE)
        return user_message(self.ids, "x" * self.random.randrange(2000))

    async def append(self) -> str | None:
        """With a lease that was held once, from what is known now."""
        if not self.held:
            return None
        lease = self.random.choice(self.held[-8:])
        if lease.session_id not in self.oracle.sessions:
            return await self._send(self._draft(lease, self.snapshots[lease.session_id]))
        return await self._send(self._draft(lease, self.oracle.snapshot(lease.session_id)))

    async def append_from_old_memory(self) -> str | None:
        if not self.held:
            return None
        lease = self.random.choice(self.held[-8:])
        return await self._send(self._draft(lease, self.snapshots[lease.session_id]))

    async def append_with_claim(self) -> str | None:
        session_id = self._any()
        if session_id not in self.oracle.sessions:
            return None
        seen = self.oracle.snapshot(session_id)
        epoch = seen.record.epoch + self.random.choice((0, 1, 1, 1, 1, 2))
        claim = Claim(session_id=session_id, owner=self._owner(), epoch=epoch)
        outcome = await self._send(self._draft(claim, seen))
        if outcome == "ok":
            self._hold(Lease(session_id=session_id, owner=claim.owner, epoch=epoch))
        return outcome

    async def append_again(self) -> str | None:
        """A retry of an append whose answer was lost."""
        return await self._send(self.random.choice(self.sent[-10:])) if self.sent else None

    def _draft(self, lease: Lease | Claim, seen: Snapshot) -> Append:
        takes = [entry for entry in seen.inbox if self.random.random() < 0.6]
        self.random.shuffle(takes)
        events: list[Event] = [agent_message(self.ids) for _ in range(self.random.choice((0, 1, 1, 3)))]
        answers: dict[EventId, EventId] = {}
        if self.random.random() < 0.3:
            events.append(custom_tool_use(self.ids))
        uses = [event.event_id for event in seen.events if event.type == "agent.custom_tool_use"]
        if uses and self.random.random() < 0.2:  # a synthetic result; maybe it has one already
            result = custom_tool_result(self.ids, self.random.choice(uses))
            events.append(result)
            answers[result.id] = result.custom_tool_use_id
        if not takes and not events:
            events.append(agent_message(self.ids))
        status: Status = self.random.choices(
            ("running", "idle", "rescheduling", "terminated"), weights=(8, 10, 1, 0.4)
        )[0]
        return Draft(seen=seen, lease=lease, now=self.clock.now()).append(
            events,
            takes=takes,
            answers=answers,
            status=status,
            needs_brain=self.random.random() < 0.4,
            releases=self.random.random() < 0.3,
            gets_on=self.random.random() < 0.3,
        )

    async def _send(self, append: Append) -> str:
        self.sent.append(append)
        return await self.both(
            self.log.append(append),
            lambda: self.oracle.append(append),
            lambda stored: [event.event_id for event in stored],
        )

    async def claim(self) -> str:
        owner, limit = self._owner(), self.random.choice((1, 2, 5))
        some = self.random.sample(self.known, min(3, len(self.known)))
        session_ids = self.random.choice((None, None, some))
        expected = self.oracle.claim(owner=owner, limit=limit, session_ids=session_ids)
        leases = await self.leases.claim(owner=owner, limit=limit, session_ids=session_ids)
        assert leases == expected
        assert [lease.failures for lease in leases] == [lease.failures for lease in expected]
        for lease in leases:
            self._hold(lease)
        return "ok" if leases else "nothing free"

    async def renew(self) -> str:
        leases = self.random.sample(self.held, min(4, len(self.held)))
        held = self.oracle.renew(leases)
        assert await self.leases.renew(leases) == held
        return "ok" if held else "none held"

    async def release(self) -> str:
        leases = self.random.sample(self.held, min(2, len(self.held)))
        self.oracle.release(leases)
        await self.leases.release(leases)
        return "ok"

    async def rest(self) -> str | None:
        if not self.held:
            return None
        lease = self.random.choice(self.held)
        if lease.session_id not in self.oracle.sessions:
            return None
        seen = self.oracle.snapshot(lease.session_id).record
        ends = {
            "seen_seq": seen.last_seq - self.random.choice((0, 0, 1)),
            "seen_arrival": seen.last_arrival,
        }
        self.oracle.rest(lease, **ends)
        await self.leases.rest(lease, **ends)
        return "ok"

    async def fail(self) -> str:
        leases = self.random.sample(self.held, min(2, len(self.held)))
        leases = list({lease.session_id: lease for lease in leases}.values())
        self.oracle.fail(leases)
        await self.leases.fail(leases)
        return "ok"

    async def end(self) -> str:
        prefix = self.random.choice(("brain-", "br_in-", "BRAIN-", "other-"))
        ended = self.oracle.end(owner_prefix=prefix, except_owner="brain-1")
        assert await self.leases.end(owner_prefix=prefix, except_owner="brain-1") == ended
        return "ok" if ended else "none"

    async def expire(self) -> str:
        self.clock.advance(self.random.choice((3.0, 11.0)))
        return "ok"

    async def update(self) -> str | None:
        session_id = self._any()
        session = self.oracle.sessions.get(session_id)
        if session is None:
            return None
        title = self.random.choice(("one", "two"))
        changes = SessionChanges(given=frozenset({"title"}), title=title)
        if session.record.status == "terminated":
            with pytest.raises(Conflict):
                await self.sessions.update(session_id, changes)
            return "Conflict"
        changed = title != session.record.title
        before = len(session.log)
        stored = await self.sessions.update(session_id, changes)
        assert (stored.title, stored.last_seq) == (title, before + changed)
        await self._adopt(session_id, ["session.updated"] if changed else [])
        session.record = stored
        return "ok" if changed else "no change"

    async def archive(self) -> str:
        session_id = self._any()
        types: list[str] = []

        def oracle() -> str:
            types.extend(self.oracle.archive(session_id))
            return "terminated"

        outcome = await self.both(self.sessions.archive(session_id), oracle, lambda record: record.status)
        await self._adopt(session_id, types)
        return outcome

    async def delete(self) -> str:
        session_id = self._any()
        return await self.both(
            self.sessions.delete(session_id),
            lambda: self.oracle.delete(session_id),
            lambda nothing: nothing,
        )

    async def list_in_pages(self) -> str | None:
        """Page through while nothing changes: the whole, in order."""
        session_id = self._any()
        if session_id not in self.oracle.sessions:
            return None
        seen = self.oracle.snapshot(session_id)
        descending = self.random.random() < 0.5
        types = self.random.choice(((), ("user.message", "agent.message")))
        entries: list[StoredEvent | InboxEntry] = [*seen.events, *seen.inbox]
        expected = [entry for entry in entries if not types or entry.type in types]
        if descending:
            expected.reverse()
        found: list[StoredEvent | InboxEntry] = []
        position: Position | None = None
        limit = self.random.choice((1, 2, 7, 1000))
        while True:
            page = await self.log.page(
                session_id, EventFilter(types=types), descending=descending, limit=limit, after=position
            )
            assert len(page.events) <= limit
            found += page.events
            position = page.next_position
            if position is None:
                break
        assert [entry.event_id for entry in found] == [entry.event_id for entry in expected]
        return "descending" if descending else "ascending"

    async def follow(self) -> str | None:
        session_id = self._any()
        if session_id not in self.oracle.sessions:
            return None
        reader = self.readers[session_id]
        caught_up = await reader.read(self.log, limit=self.random.choice((1, 2, 5, 100)))
        session = self.oracle.sessions[session_id]
        ends = (len(session.log), session.last_arrival)
        assert caught_up == ((reader.position.seq, reader.position.arrival) == ends)
        return "caught up" if caught_up else "more"

    # -- support --------------------------------------------------------------------------------------

    def _any(self) -> SessionId:
        return self.random.choice(self.known[-6:])

    def _owner(self) -> str:
        return self.random.choice(("brain-1", "brain-2", "other-1"))

    def _uses(self, session_id: SessionId) -> list[EventId]:
        session = self.oracle.sessions.get(session_id)
        log = session.log if session else []
        return [event.event_id for event in log if event.type == "agent.custom_tool_use"]

    def _hold(self, lease: Lease) -> None:
        self.held.append(lease)
        self.snapshots[lease.session_id] = self.oracle.snapshot(lease.session_id)

    async def _adopt(self, session_id: SessionId, types: list[str]) -> None:
        """Facts that the store itself appends: the oracle takes their ids and times from it."""
        if types:
            session = self.oracle.sessions[session_id]
            news = (await self.log.snapshot(session_id, after_seq=len(session.log))).events
            assert [event.type for event in news] == types
            session.log.extend(news)

    async def _compare(self) -> None:
        """Every session that the last steps may have touched, and the queue for brains."""
        for session_id in self.known[-6:]:
            if session_id not in self.oracle.sessions:
                continue
            expected, found = self.oracle.snapshot(session_id), await self.log.snapshot(session_id)
            assert tuple(found.events) == tuple(expected.events)
            assert tuple(found.inbox) == tuple(expected.inbox)
            for name in ("status", "last_seq", "last_arrival", "epoch", "failures"):
                assert getattr(found.record, name) == getattr(expected.record, name), name
            times = [event.processed_at for event in found.events]
            assert times == sorted(set(times))
        assert await self.leases.waiting(limit=1000) == self.oracle.waiting()
        assert await self.leases.failures(self.known) == self.oracle.failures(self.known)


WEIGHTS = {
    "create": 4,
    "accept": 20,
    "append": 25,
    "append_from_old_memory": 5,
    "append_with_claim": 12,
    "append_again": 4,
    "claim": 10,
    "renew": 3,
    "release": 2,
    "rest": 2,
    "fail": 2,
    "end": 1.5,
    "expire": 3,
    "update": 5,
    "archive": 3,
    "delete": 2,
    "list_in_pages": 10,
    "follow": 12,
}

MUST_HAPPEN = {
    "create: ok",
    "create: with initial events",
    "accept: ok",
    "accept: InvalidRequest",
    "accept: Conflict",
    "accept: NotFound",
    "append: ok",
    "append: LeaseLost",
    "append: Stale",
    "append: NotFound",
    "append_from_old_memory: Stale",
    "append_with_claim: ok",
    "append_with_claim: LeaseLost",
    "append_again: ok",
    "claim: ok",
    "renew: ok",
    "release: ok",
    "rest: ok",
    "fail: ok",
    "end: ok",
    "update: ok",
    "update: no change",
    "update: Conflict",
    "archive: ok",
    "archive: InvalidRequest",
    "delete: ok",
    "delete: InvalidRequest",
    "delete: NotFound",
    "list_in_pages: ascending",
    "list_in_pages: descending",
    "follow: caught up",
    "follow: more",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_store_and_oracle_agree(
    tmp_path: Path, seed: int, engine: str, request: pytest.FixtureRequest
) -> None:
    where = request.getfixturevalue("database_url") if engine == "postgres" else tmp_path / "corral.db"
    clock = ManualClock()
    database = await Database.open(where, clock=clock)
    try:
        run = Run(database, clock, seed, seen_outcomes[engine])
        for number in range(STEPS):
            try:
                await run.step()
            except BaseException:
                print(f"CORRAL_SEED={seed}, step {number}")
                raise
    finally:
        await database.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_everything_has_happened(engine: str) -> None:
    if "CORRAL_SEED" in os.environ:
        pytest.skip("one seed does not reach everything")
    if engine == "postgres" and (reason := no_postgres()):
        pytest.skip(reason)
    missing = MUST_HAPPEN - set(seen_outcomes[engine])
    assert not missing, missing
