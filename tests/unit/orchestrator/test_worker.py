"""The worker: who gets a brain. Real parts throughout; sessions fail because their input is damaged."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, update

from corral.brain.dispatch import Dispatch
from corral.brain.loop import Gear
from corral.brain.models.replay import ReplayModel
from corral.catalog.models import ModelTable
from corral.hands.client import HandsClient
from corral.kernel.crash import intercepted
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import CLAIM_BATCH_MAX
from corral.orchestrator.worker import Worker
from corral.session.lease import Lease
from corral.session.record import SessionRecord
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.schema import inbox
from corral.store.schema import sessions as sessions_table
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Reply
from corral.testing.sessions import new_session, user_message
from tests.unit.orchestrator.brain import cluster, until

FAILING = 80


async def test_many_failing_sessions_do_not_hide_the_one_behind_them(tmp_path: Path) -> None:
    start, ids, bus = datetime(2026, 11, 20, tzinfo=UTC), Ids(), LocalBus()
    clock = ManualClock(start)
    database = await Database.open(tmp_path / "corral.db", clock=clock)
    sessions = Sessions(database, LocalBus(), clock)  # another bus: no hint comes
    records = [_session(ids, start + timedelta(seconds=number)) for number in range(FAILING + 1)]
    for record in records:
        await sessions.create(record, initial=[user_message(ids)])
        clock.advance(1)
    last = records[-1].session_id
    await database.write(lambda connection: _damage_all_but(connection, last))

    leases, log = Leases(database), Log(database, bus)
    hands = HandsClient(tmp_path / "nobody.sock", token="none")
    dispatch = Dispatch(hands)

    async def claim(session_id: SessionId) -> Lease | None:
        claimed = await leases.claim(owner="brain-1", limit=1, session_ids=[session_id])
        return claimed[0] if claimed else None

    gear = Gear(
        owner="brain-1",
        claim=claim,
        log=log,
        bus=bus,
        model=ReplayModel(pace=0),
        models=ModelTable.packaged(),
        dispatch=dispatch,
        clock=clock,
        ids=ids,
    )
    async with bus.subscribe(last, buffer=100) as messages:
        running = asyncio.create_task(Worker(gear, leases=leases, bus=bus).run())
        async with asyncio.timeout(60):
            await anext(messages)  # the brain of the last session has written
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await sessions.read(records[0].session_id)).last_seq == 0
    await dispatch.aclose()
    await hands.aclose()
    await database.close()


async def test_suspects_that_may_not_run_at_once_do_not_hide_the_one_behind_them(tmp_path: Path) -> None:
    """Their turns are long: those that wait for one go on waiting."""

    def script(request: Request) -> Reply:
        return Reply(content=Reply.text("never").content, hang_after_bytes=200)

    async with MessagesApi(script) as api, cluster(api, tmp_path) as brains:
        for _ in range(3 * CLAIM_BATCH_MAX):
            await brains.session()
        suspects = update(sessions_table).values(failures=3)
        await brains.database.write(lambda connection: connection.execute(suspects))
        last = await brains.session()
        brains.worker("brain-1")

        async def has_begun() -> bool:
            return (await brains.sessions.read(last.session_id)).last_seq > 0

        await until(has_begun)


async def test_what_is_being_claimed_when_the_drain_begins_is_handed_over(tmp_path: Path) -> None:
    async with MessagesApi(lambda _: Reply.text("never asked")) as api, cluster(api, tmp_path) as brains:
        record = await brains.session()
        worker, drains = brains.worker("brain-1"), list[asyncio.Task[None]]()

        def drain(point: str) -> None:
            if point == "store.claim.before" and not drains:
                drains.append(asyncio.create_task(worker.drain()))

        async def has_begun() -> bool:
            return bool(drains)

        with intercepted(drain):
            await until(has_begun)
            await drains[0]
        assert worker.running_sessions == 0
        [lease] = await brains.leases.claim(owner="brain-2", limit=1, session_ids=[record.session_id])
        assert (lease.epoch, lease.failures) == (2, 0), "it was claimed, and given back in good order"
        assert not api.requests


def _session(ids: Ids, now: datetime) -> SessionRecord:
    record = new_session(ids, now)
    agent = {**record.agent, "model": {"id": "replay"}, "system": None}
    return replace(record, agent=agent, threads=[replace(thread, agent=agent) for thread in record.threads])


def _damage_all_but(connection: Connection, session_id: SessionId) -> None:
    connection.execute(update(inbox).where(inbox.c.session_id != session_id).values(body=b"damaged"))
