"""Sessions that fail again and again: counted, kept apart, ended; their neighbours go on."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, update

from corral.hands.client import HandsClient
from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import LEASE_CHECK_SECONDS, SESSION_FAILURES_MAX, SUSPECTS_AT_ONCE
from corral.orchestrator.worker import Worker
from corral.session.events import AgentCustomToolUse, SpanModelRequestStart
from corral.session.lease import Lease
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.schema import events, inbox, sessions
from corral.testing.clock import skip
from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Reply
from corral.testing.sessions import Draft, user_message
from tests.unit.orchestrator.brain import Cluster, cluster, until


async def test_a_session_that_nobody_can_fold_is_ended_from_its_record(tmp_path: Path) -> None:
    """The last resort: its input breaks every fold, so its turn is ended without one."""
    async with MessagesApi(lambda _: Reply.text("Done.")) as api, cluster(api, tmp_path) as brains:
        damaged = await brains.session()
        await brains.database.write(lambda connection: _damage(connection, damaged.session_id))
        neighbours = [await brains.session() for _ in range(10)]
        brains.worker("brain-1")
        began = time.monotonic()
        for neighbour in neighbours:
            seen = await brains.settled(neighbour.session_id)
            assert b"Done." in b"".join(event.body for event in seen.events)
        print(f"ten neighbours were done after {time.monotonic() - began:.2f} s")
        seen = await brains.settled(damaged.session_id, seconds=60)
        bodies = [orjson.loads(event.body) for event in seen.events]
        assert [body["type"] for body in bodies] == [
            "session.status_running",
            "session.thread_status_running",
            "session.error",
            "user.message",
            "session.thread_status_idle",
            "session.usage",
            "session.status_idle",
        ]
        assert "failed 6 times" in bodies[2]["error"]["message"]
        assert bodies[-1]["stop_reason"] == {"type": "retries_exhausted"}
        assert all(body["processed_at"] for body in bodies)
        assert (seen.record.failures, await brains.leases.waiting(limit=9)) == (0, [])
        # It can be used again: what was damaged is moot.
        await brains.log.accept(
            damaged.session_id, [user_message(brains.ids, "again")], now=brains.clock.now()
        )
        seen = await brains.settled(damaged.session_id)
        assert b"Done." in b"".join(event.body for event in seen.events)


async def test_a_session_whose_log_is_damaged_is_ended_in_every_state(tmp_path: Path) -> None:
    """With an open request and a call: each is closed once, unseen."""
    call = Reply.tools(("toolu_1", "lookup", {"word": "x"}))
    async with MessagesApi([call]) as api, cluster(api, tmp_path) as brains:
        record = await brains.session()
        [lease] = await brains.leases.claim(owner="dead", limit=1, session_ids=[record.session_id])
        seen = await brains.log.snapshot(record.session_id)
        use = AgentCustomToolUse(id=brains.ids.event(), name="lookup", input={})
        start = SpanModelRequestStart(id=brains.ids.event())
        draft = Draft(seen=seen, lease=lease, now=brains.clock.now())
        await brains.log.append(draft.append([use, start], takes=seen.inbox))
        stored = await brains.log.close_turn(lease, message="it failed", now=brains.clock.now())
        bodies = [orjson.loads(event.body) for event in stored]
        assert [body["type"] for body in bodies] == [
            "span.model_request_end",
            "agent.tool_result",
            "session.error",
            "session.thread_status_idle",
            "session.usage",
            "session.status_idle",
        ]
        assert bodies[0]["model_request_start_id"] == start.id
        assert stored[1].answers == use.id
        after = await brains.log.snapshot(record.session_id)
        assert (after.record.status, after.record.running_since) == ("idle", None)
        assert await brains.leases.renew([lease]) == []


async def test_suspects_run_few_at_once(tmp_path: Path) -> None:
    """Those that have failed thrice: as many as may, and the next when one has got on."""
    most = SUSPECTS_AT_ONCE[3]

    def script(request: Request) -> Reply:
        return Reply.text("Done.") if b"innocent" in request.body else Reply(hang_after_bytes=100)

    async with MessagesApi(script) as api, cluster(api, tmp_path) as brains:
        suspects = [await brains.session() for _ in range(most + 4)]
        await _set_failures(brains, [each.session_id for each in suspects], 3)
        innocent = await brains.session("innocent")
        worker = brains.worker("brain-1")
        await api.request(most + 1)
        await brains.settled(innocent.session_id, advance=0.0)  # nobody's lease runs out meanwhile

        async def is_over() -> bool:  # the store knows first
            return worker.running_sessions <= most

        await until(is_over)
        assert worker.running_sessions == most
        assert len(api.requests) == most + 1, "the others wait"
        await brains.kill_all("enough")
        for each in suspects:
            await brains.settled(each.session_id)


async def test_a_loop_that_fails_is_backed_off_in_the_store(tmp_path: Path) -> None:
    async with MessagesApi(lambda _: Reply.text("Done.")) as api, cluster(api, tmp_path) as brains:
        damaged = await brains.session()
        await brains.database.write(lambda connection: _damage(connection, damaged.session_id))
        brains.worker("brain-1")

        async def has_failed_twice() -> bool:
            return (await brains.sessions.read(damaged.session_id)).failures >= 2

        await until(has_failed_twice)
        assert await brains.leases.waiting(limit=9) == [], "no other brain takes it at once"
        assert (await brains.sessions.read(damaged.session_id)).failures == 2


def _damage(connection: Connection, session_id: SessionId) -> None:
    connection.execute(update(inbox).where(inbox.c.session_id == session_id).values(body=b"damaged"))
    connection.execute(update(events).where(events.c.session_id == session_id).values(body=b"damaged"))


async def _set_failures(brains: Cluster, session_ids: Sequence[SessionId], failures: int) -> None:
    statement = update(sessions).where(sessions.c.session_id.in_(session_ids)).values(failures=failures)
    await brains.database.write(lambda connection: connection.execute(statement))


async def test_a_long_call_does_not_hold_the_place_of_the_suspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has its last chance is alone for a while, not for as long as its turn takes."""
    monkeypatch.setattr("corral.orchestrator.worker.SUSPECT_SECONDS", 600.0)  # a busy machine needs a while
    hangs = Reply(content=Reply.text("never").content, hang_after_bytes=200)
    async with MessagesApi(lambda _: hangs) as api, cluster(api, tmp_path) as brains:
        suspects = [await brains.session() for _ in range(2)]
        await _set_failures(brains, [each.session_id for each in suspects], SESSION_FAILURES_MAX - 1)
        worker = brains.worker("brain-1")
        await api.request(1)
        assert worker.running_sessions == 1
        monkeypatch.setattr("corral.orchestrator.worker.SUSPECT_SECONDS", 0.0)  # the while is over
        await api.request(2)
        assert worker.running_sessions == 2


async def test_those_that_are_only_ended_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with MessagesApi([]) as api, cluster(api, tmp_path) as brains:
        records = [await brains.session() for _ in range(4)]
        await _set_failures(brains, [each.session_id for each in records], SESSION_FAILURES_MAX)
        gear = brains.gear("brain-1")
        claimed: list[int] = []

        class Counted(Leases):
            async def claim(self, **given: Any) -> list[Lease]:
                leases = await super().claim(**given)
                claimed.append(len(leases))
                return leases

        worker = Worker(gear, leases=Counted(brains.database), bus=gear.bus)
        brains.tasks.append(asyncio.create_task(worker.run()))
        for each in records:
            await brains.settled(each.session_id)
        assert claimed[0] == 4
        assert not api.requests


async def test_a_store_that_was_away_is_no_failure_of_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A brain whose lease could not be renewed gives it back, as soon as that is possible."""
    # A busy machine has not stood still, and its store is not away whenever it is slow.
    monkeypatch.setattr("corral.orchestrator.worker.AWAKE_SECONDS", 60.0)
    monkeypatch.setattr("corral.orchestrator.worker.STORE_LATE_SECONDS", 600.0)
    hangs = Reply(content=Reply.text("never").content, hang_after_bytes=200)
    async with MessagesApi(lambda _: hangs) as api, cluster(api, tmp_path) as brains:
        record = await brains.session()
        gear = brains.gear("brain-1")
        is_away = False

        class Leaving(Database):
            """The same database, out of reach at times."""

            async def write(self, *given: Any, **named: Any) -> Any:
                if is_away:
                    raise StoreUnavailable("away")
                return await brains.database.write(*given, **named)

        is_back = asyncio.Event()

        class Slow(Leases):
            """A look that began while the store was away has its answer when it is back."""

            async def waiting(self, *, limit: int) -> list[SessionId]:
                found = await super().waiting(limit=limit)
                if is_away:
                    await is_back.wait()
                    found = await super().waiting(limit=limit)
                return found

        reach = Leaving.__new__(Leaving)
        reach.__dict__ = brains.database.__dict__
        worker = Worker(gear, leases=Slow(reach), bus=gear.bus)
        brains.tasks.append(asyncio.create_task(worker.run()))
        request = await api.request(1)
        is_away = True
        for _ in range(10):
            skip(1.0)
            brains.clock.advance(1.0)
            await asyncio.sleep(LEASE_CHECK_SECONDS / 10)

        async def has_stopped() -> bool:
            return request.closed.is_set() and worker.running_sessions == 0

        await until(has_stopped)
        is_away = False
        is_back.set()

        async def is_given_back() -> bool:
            return await brains.leases.failures([record.session_id]) == {}  # a lease past its time is one

        await until(is_given_back)
        await api.request(2)
        assert (await brains.sessions.read(record.session_id)).failures == 0


async def test_what_a_poisoned_turn_left_running_is_killed_and_settled(tmp_path: Path) -> None:
    told: list[tuple[str, list[str]]] = []

    class Noting(HandsClient):
        async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
            told.append((f"cancel under epoch {epoch}", list(call_ids)))

        async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
            told.append(("settle", list(call_ids)))

    async with MessagesApi([]) as api, cluster(api, tmp_path) as brains:
        record = await brains.session()
        [lease] = await brains.leases.claim(owner="dead", limit=1, session_ids=[record.session_id])
        seen = await brains.log.snapshot(record.session_id)
        use = AgentCustomToolUse(id=brains.ids.event(), name="lookup", input={})
        draft = Draft(seen=seen, lease=lease, now=brains.clock.now())
        await brains.log.append(draft.append([use], takes=seen.inbox))
        await brains.leases.release([lease])
        await _set_failures(brains, [record.session_id], SESSION_FAILURES_MAX + 1)
        brains.hands = Noting(tmp_path / "nobody.sock", token="none")
        brains.worker("brain-1")
        await brains.settled(record.session_id)

        async def was_told() -> bool:
            return len(told) == 2

        await until(was_told)
        assert told == [("cancel under epoch 2", [use.id]), ("settle", [use.id])]
