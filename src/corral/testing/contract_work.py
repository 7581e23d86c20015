"""What every store of work queues and environment keys must do. See contract_store."""

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Literal

from corral.catalog.environment_keys import EnvironmentKey, environment_key
from corral.catalog.environments import new_environment
from corral.kernel.clock import rfc3339
from corral.kernel.errors import Conflict, HeartbeatRefused, InvalidRequest, NotFound
from corral.kernel.ids import (
    DEFAULT_WORKSPACE,
    ENVIRONMENT,
    EnvironmentId,
    EnvironmentKeyId,
    EventId,
    SessionId,
    WorkId,
    WorkspaceId,
)
from corral.kernel.limits import WORK_LEASE_SECONDS, WORK_RETRY_SECONDS, WORK_STOP_SECONDS
from corral.session.events import AgentToolUse, SessionStatusIdle, UserInterrupt, UserToolResult
from corral.session.lease import Claim
from corral.session.work import NO_HEARTBEAT, Claimed, Holder, Queue, Work
from corral.testing.sessions import new_session, user_message
from corral.testing.stores import Stores, error_of

HERE, ELSEWHERE = DEFAULT_WORKSPACE, WorkspaceId("wrkspc_other")
ENV = EnvironmentId("env_workers")
QUEUE = Queue(HERE, ENV)


async def session(stores: Stores, *, environment_id: EnvironmentId = ENV, says: bool = True) -> SessionId:
    """In a self-hosted environment; with a message, which offers its work."""
    stores.clock.advance(0.001)
    record = replace(
        new_session(stores.ids, stores.clock.now(), environment_id=environment_id),
        environment={"type": "self_hosted"},
    )
    initial = [user_message(stores.ids)] if says else []
    return (await stores.sessions.create(record, initial=initial)).session_id


async def asks_for(
    stores: Stores, session_id: SessionId, *, permission: Literal["allow", "ask"] = "allow"
) -> EventId:
    """As a brain does it: the session waits for one call that a worker runs."""
    seen = await stores.log.snapshot(session_id)
    lease = Claim(session_id=session_id, owner="brain", epoch=seen.record.epoch + 1)
    use = AgentToolUse(
        id=stores.ids.event(), name="bash", input={"command": "ls"}, evaluated_permission=permission
    )
    draft = await stores.draft(lease)
    append = draft.append(
        [use],
        takes=seen.inbox,
        status="idle",
        needs_brain=False,
        releases=True,
        private={"remote": True},
        blocked_on=[use.id],
        work_for=ENV if permission == "allow" else None,
    )
    await stores.log.append(append)
    return use.id


async def rests(stores: Stores, session_id: SessionId) -> None:
    """As a brain does it: the turn has come to its end."""
    seen = await stores.log.snapshot(session_id)
    lease = Claim(session_id=session_id, owner="brain", epoch=seen.record.epoch + 1)
    idle = SessionStatusIdle(id=stores.ids.event(), stop_reason={"type": "end_turn"}, stop_details=None)
    draft = await stores.draft(lease)
    await stores.log.append(
        draft.append([idle], takes=seen.inbox, status="idle", needs_brain=False, releases=True)
    )


def answer(stores: Stores, use_id: EventId) -> UserToolResult:
    return UserToolResult(
        id=stores.ids.event(), tool_use_id=use_id, content=[{"type": "text", "text": "done"}]
    )


async def claim(stores: Stores, *, queue: Queue = QUEUE, reclaim_seconds: float = 5.0) -> Claimed:
    claimed = await stores.work.claim(queue, reclaim_seconds=reclaim_seconds)
    assert claimed is not None
    return claimed


async def is_empty(stores: Stores) -> bool:
    return await stores.work.claim(QUEUE, reclaim_seconds=5.0) is None


async def serve(stores: Stores) -> Claimed:
    """Claimed, acknowledged, and beating."""
    claimed = await claim(stores)
    await stores.work.acknowledge(QUEUE, claimed.work.work_id)
    await beat(stores, claimed.work.work_id, NO_HEARTBEAT)
    return claimed


async def beat(
    stores: Stores,
    work_id: WorkId,
    expected: str | None,
    *,
    desired: int | None = None,
    repeat: bool = False,
) -> str:
    beaten = await stores.work.beat(
        QUEUE, work_id, expected=expected, desired_seconds=desired, is_repeat=repeat
    )
    assert beaten.lease_extended and beaten.work.latest_heartbeat_at is not None
    return rfc3339(beaten.work.latest_heartbeat_at)


async def stop(stores: Stores, item: Work, *, force: bool = True, by_worker: bool = True) -> Work:
    return await stores.work.stop(QUEUE, item.work_id, force=force, by_worker=by_worker)


async def holder(stores: Stores, claimed: Claimed) -> Holder | None:
    return await stores.work.holder(sha256(claimed.token.encode()).digest())


# -- the queue ------------------------------------------------------------------------------------------


async def check_work_is_offered_once_and_in_order(stores: Stores) -> None:
    assert await is_empty(stores)
    await session(stores, says=False)
    assert await is_empty(stores), "nothing was said to it yet"
    sessions = [await session(stores) for _ in range(3)]
    assert (await stores.work.stats(QUEUE)).depth == 3
    first = await claim(stores)
    assert (first.work.session_id, first.work.state) == (sessions[0], "queued")
    assert [(await claim(stores)).work.session_id for _ in range(2)] == sessions[1:]
    assert await is_empty(stores)
    await stores.log.accept(sessions[0], [user_message(stores.ids)], now=stores.clock.now())
    await asks_for(stores, sessions[0])
    assert await is_empty(stores), "it has its item already"
    stats = await stores.work.stats(QUEUE)
    assert (stats.depth, stats.pending, stats.oldest_queued_at) == (0, 3, first.work.queued_at)
    assert await stores.work.claim(Queue(ELSEWHERE, ENV), reclaim_seconds=0.0) is None
    assert await stores.work.claim(Queue(HERE, EnvironmentId("env_2")), reclaim_seconds=0.0) is None


async def check_claims_at_once_get_different_items(stores: Stores) -> None:
    expected = {await session(stores) for _ in range(6)}
    found = await asyncio.gather(*(stores.work.claim(QUEUE, reclaim_seconds=5.0) for _ in range(12)))
    more = [await stores.work.claim(QUEUE, reclaim_seconds=5.0) for _ in range(6)]
    claimed = [each.work.session_id for each in (*found, *more) if each is not None]
    assert len(claimed) == 6 and set(claimed) == expected


async def check_an_unacknowledged_claim_goes_to_others(stores: Stores) -> None:
    await session(stores)
    first = await claim(stores)
    stores.clock.advance(4.9)
    assert await is_empty(stores)
    stores.clock.advance(0.2)
    second = await claim(stores)
    assert second.work.work_id == first.work.work_id and second.token != first.token
    one, two = await holder(stores, first), await holder(stores, second)
    assert one is not None and two is not None
    assert (one.is_current, one.holds, two.is_current, two.holds) == (False, False, True, True)
    await stores.work.acknowledge(QUEUE, second.work.work_id)
    stores.clock.advance(60)
    assert await is_empty(stores)


async def check_the_lease(stores: Stores) -> None:
    await session(stores)
    work_id = (await claim(stores)).work.work_id
    refused = await error_of(
        stores.work.beat(QUEUE, work_id, expected=NO_HEARTBEAT, desired_seconds=None, is_repeat=False)
    )
    assert isinstance(refused, HeartbeatRefused), "it was not acknowledged"
    item = await stores.work.acknowledge(QUEUE, work_id)
    assert (item.state, item.started_at) == ("starting", None)
    assert await stores.work.acknowledge(QUEUE, work_id) == item, "a repeat"
    first = await beat(stores, work_id, NO_HEARTBEAT)
    item = await stores.work.read(QUEUE, work_id)
    assert item.state == "active" and item.started_at is not None
    assert item.ttl_seconds == WORK_LEASE_SECONDS
    second = await beat(stores, work_id, first, desired=1)
    assert second > first
    assert (await stores.work.read(QUEUE, work_id)).ttl_seconds == 10
    for wrong in (NO_HEARTBEAT, first, "", "yesterday"):
        refused = await error_of(
            stores.work.beat(QUEUE, work_id, expected=wrong, desired_seconds=None, is_repeat=False)
        )
        assert isinstance(refused, HeartbeatRefused)
        assert refused.details["current_state"] == {
            "last_heartbeat": second,
            "lease_extended": False,
            "state": "active",
            "ttl_seconds": 10,
        }
    assert await beat(stores, work_id, first, repeat=True) == second, "its answer was lost"
    assert await beat(stores, work_id, None, desired=99_999) > second
    assert (await stores.work.read(QUEUE, work_id)).ttl_seconds == 3600


async def check_a_lease_that_ends_puts_the_item_back(stores: Stores) -> None:
    session_id = await session(stores)
    lost = await serve(stores)
    stores.clock.advance(WORK_LEASE_SECONDS - 1)
    assert await is_empty(stores)
    held = await holder(stores, lost)
    assert held is not None and held.holds
    stores.clock.advance(1)
    item = await stores.work.read(QUEUE, lost.work.work_id)
    assert (item.state, item.latest_heartbeat_at, item.acknowledged_at) == ("queued", None, None)
    assert (await stores.work.stats(QUEUE)).depth == 1
    held = await holder(stores, lost)
    assert held is not None and (held.is_current, held.holds) == (True, False)
    refused = await error_of(
        stores.work.beat(QUEUE, item.work_id, expected=None, desired_seconds=None, is_repeat=False)
    )
    assert isinstance(refused, HeartbeatRefused) and "queue" in refused.message
    assert isinstance(await error_of(stores.work.acknowledge(QUEUE, item.work_id)), Conflict)
    again = await serve(stores)
    assert (again.work.work_id, again.work.session_id) == (item.work_id, session_id)
    held = await holder(stores, lost)
    assert held is not None and not held.is_current


# -- stopping -------------------------------------------------------------------------------------------


async def check_stopping(stores: Stores) -> None:
    await session(stores)
    item = (await serve(stores)).work
    asked = await stop(stores, item, force=False, by_worker=False)
    assert (asked.state, asked.stopped_at) == ("stopping", None)
    assert await stop(stores, item, force=False, by_worker=False) == asked
    told = await stores.work.beat(
        QUEUE, item.work_id, expected="any", desired_seconds=None, is_repeat=False
    )
    assert (told.lease_extended, told.work.state) == (False, "stopping")
    done = await stop(stores, item)
    assert (done.state, done.stopped_at) == ("stopped", stores.clock.now())
    assert isinstance(await error_of(stop(stores, item)), Conflict)
    assert isinstance(await error_of(stores.work.acknowledge(QUEUE, item.work_id)), Conflict)
    told = await stores.work.beat(QUEUE, item.work_id, expected=None, desired_seconds=None, is_repeat=False)
    assert (told.lease_extended, told.work.state) == (False, "stopped")
    assert await is_empty(stores)


async def check_a_stop_that_nobody_confirms_is_one_in_time(stores: Stores) -> None:
    session_id = await session(stores)
    served = await serve(stores)
    await stop(stores, served.work, force=False, by_worker=False)
    await stores.log.accept(session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert await is_empty(stores), "its worker may still be at it"
    stores.clock.advance(WORK_STOP_SECONDS)
    again = await claim(stores)
    assert again.work.work_id == served.work.work_id
    await stop(stores, again.work)
    await session(stores)
    other = await serve(stores)
    await stop(stores, other.work, force=False, by_worker=False)
    stores.clock.advance(WORK_STOP_SECONDS)
    item = await stores.work.read(QUEUE, other.work.work_id)
    assert (item.state, item.stopped_at) == ("stopped", stores.clock.now())
    await stores.log.accept(other.work.session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert (await claim(stores)).work.work_id != item.work_id, "a new item"


async def check_an_item_that_nobody_has_stops_at_once(stores: Stores) -> None:
    session_id = await session(stores)
    [item] = (await stores.work.page(QUEUE, limit=10, cursor=None)).items
    assert (await stop(stores, item, force=False, by_worker=False)).state == "stopped"
    assert await is_empty(stores)
    await stores.log.accept(session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert (await claim(stores)).work.work_id != item.work_id


async def check_a_worker_that_got_on_leaves_the_rest_to_the_next(stores: Stores) -> None:
    session_id = await session(stores)
    served = await serve(stores)
    use_id = await asks_for(stores, session_id)
    await stores.log.accept(session_id, [answer(stores, use_id)], now=stores.clock.now())
    await asks_for(stores, session_id)  # and it stops for a reason of its own
    await stop(stores, served.work)
    again = await serve(stores)
    assert again.work.work_id != served.work.work_id
    await rests(stores, session_id)
    await asks_for(stores, session_id)  # of a new turn, just when its worker leaves the idle session
    await stop(stores, again.work)
    last = await serve(stores)
    assert last.work.session_id == session_id
    await rests(stores, session_id)
    await stop(stores, last.work)
    assert await is_empty(stores), "nothing is left to run"


async def check_failed_work_waits_until_an_interrupt(stores: Stores) -> None:
    session_id = await session(stores)
    await asks_for(stores, session_id)
    await stop(stores, (await serve(stores)).work)  # it could not mount a memory store, say
    assert await is_empty(stores)
    interrupt = UserInterrupt(id=stores.ids.event())
    [entry] = await stores.log.accept(session_id, [interrupt], now=stores.clock.now())
    assert (entry.event_id, entry.arrival) == (interrupt.id, None), "it was processed at once"
    record = await stores.sessions.read(session_id)
    assert record.status == "idle" and record.blocked_on, "and its calls wait as before"
    again = await serve(stores)
    await stop(stores, again.work)
    stores.clock.advance(2 * WORK_RETRY_SECONDS - 1)
    assert await is_empty(stores), "twice in a row"
    stores.clock.advance(1)
    last = await serve(stores)
    # Somebody is at it now, so an interrupt is one.
    second = UserInterrupt(id=stores.ids.event())
    [entry] = await stores.log.accept(session_id, [second], now=stores.clock.now())
    assert entry.arrival is not None
    assert (await stores.work.read(QUEUE, last.work.work_id)).state == "active"


async def check_what_an_operator_stops_stays_stopped(stores: Stores) -> None:
    session_id = await session(stores)
    await asks_for(stores, session_id)
    await stop(stores, (await serve(stores)).work, by_worker=False)
    stores.clock.advance(99 * WORK_RETRY_SECONDS)
    assert await is_empty(stores)
    await stores.log.accept(session_id, [UserInterrupt(id=stores.ids.event())], now=stores.clock.now())
    assert not await is_empty(stores)


async def check_the_end_of_a_session_is_the_end_of_its_work(stores: Stores) -> None:
    ended = await session(stores)
    await rests(stores, ended)
    item = (await serve(stores)).work
    await stores.sessions.archive(ended)
    assert (await stores.work.read(QUEUE, item.work_id)).state == "stopped"
    deleted = await session(stores)
    await rests(stores, deleted)
    gone = await serve(stores)
    await stores.sessions.delete(deleted)
    assert isinstance(await error_of(stores.work.read(QUEUE, gone.work.work_id)), NotFound)
    assert await holder(stores, gone) is None
    assert await is_empty(stores)


# -- answers --------------------------------------------------------------------------------------------


async def check_a_call_takes_one_result(stores: Stores) -> None:
    session_id = await session(stores)
    use_id = await asks_for(stores, session_id)
    first = answer(stores, use_id)
    now = stores.clock.now()
    [stored] = await stores.log.accept(session_id, [first], now=now)
    again = answer(stores, use_id)
    [same] = await stores.log.accept(session_id, [again], now=now)
    assert same.event_id == stored.event_id == first.id, "the same result, sent twice"
    other = UserToolResult(id=stores.ids.event(), tool_use_id=use_id, content=[], is_error=True)
    refused = await error_of(stores.log.accept(session_id, [other], now=now))
    assert isinstance(refused, InvalidRequest) and "already settled" in refused.message
    asked = await asks_for(stores, session_id, permission="ask")
    refused = await error_of(stores.log.accept(session_id, [answer(stores, asked)], now=now))
    assert isinstance(refused, InvalidRequest) and "user.tool_confirmation" in refused.message


# -- what is shown --------------------------------------------------------------------------------------


async def check_lists_and_metadata(stores: Stores) -> None:
    made = [await session(stores) for _ in range(5)]
    await session(stores, environment_id=EnvironmentId("env_2"))
    first = await stores.work.page(QUEUE, limit=3, cursor=None)
    rest = await stores.work.page(QUEUE, limit=3, cursor=first.next_cursor)
    assert [item.session_id for item in (*first.items, *rest.items)] == made[::-1]
    assert first.next_cursor is not None and rest.next_cursor is None
    assert not (await stores.work.page(Queue(ELSEWHERE, ENV), limit=3, cursor=None)).items
    foreign = await stores.work.page(Queue(HERE, EnvironmentId("env_2")), limit=3, cursor=None)
    bad = await error_of(stores.work.page(QUEUE, limit=3, cursor="bm9uZQ"))
    assert isinstance(bad, InvalidRequest)
    item = first.items[0]
    changed = await stores.work.update(QUEUE, item.work_id, lambda current: {**current, "on": "host-1"})
    assert changed == replace(item, metadata={"on": "host-1"})
    assert await stores.work.read(QUEUE, item.work_id) == changed
    for other in (foreign.items[0].work_id, WorkId("work_none")):
        assert isinstance(await error_of(stores.work.read(QUEUE, other)), NotFound)
        assert isinstance(await error_of(stores.work.acknowledge(QUEUE, other)), NotFound)
        assert isinstance(
            await error_of(stores.work.stop(QUEUE, other, force=True, by_worker=False)), NotFound
        )


async def check_workers_that_poll_are_counted(stores: Stores) -> None:
    for worker in ("a", "b", "a"):
        await stores.work.note_worker(QUEUE, worker)
        stores.clock.advance(10)
    assert (await stores.work.stats(QUEUE)).workers_polling == 2
    stores.clock.advance(15)
    assert (await stores.work.stats(QUEUE)).workers_polling == 1
    assert (await stores.work.stats(Queue(HERE, EnvironmentId("env_2")))).workers_polling == 0


# -- keys -----------------------------------------------------------------------------------------------


async def environment(stores: Stores, kind: str = "self_hosted") -> EnvironmentId:
    environment_id = EnvironmentId(stores.ids.mint(ENVIRONMENT))
    made = new_environment(
        {"name": "workers", "config": {"type": kind}},
        environment_id=environment_id,
        now=stores.clock.now(),
    )
    await stores.environments.create(made, workspace_id=HERE)
    return environment_id


def key_of(stores: Stores, environment_id: EnvironmentId, text: str = "of-no-use") -> EnvironmentKey:
    stores.clock.advance(1)
    return environment_key(
        text,
        workspace_id=HERE,
        environment_id=environment_id,
        name="pool",
        ids=stores.ids,
        now=stores.clock.now(),
    )


async def check_environment_keys(stores: Stores) -> None:
    environment_id = await environment(stores)
    keys = [key_of(stores, environment_id, f"secret-{n}") for n in range(2)]
    for key in keys:
        await stores.environment_keys.add(key)
    assert await stores.environment_keys.find(keys[0].sha256) == keys[0]
    assert await stores.environment_keys.find(b"none") is None
    listed = await stores.environment_keys.of_environment(environment_id, workspace_id=HERE)
    assert list(listed) == keys
    for _ in range(2):
        await stores.environment_keys.revoke(
            environment_id, keys[0].environment_key_id, workspace_id=HERE, now=stores.clock.now()
        )
    assert await stores.environment_keys.find(keys[0].sha256) is None
    assert await stores.environment_keys.find(keys[1].sha256) == keys[1]
    none = EnvironmentKeyId("envkey_none")
    for refused in (
        stores.environment_keys.of_environment(environment_id, workspace_id=ELSEWHERE),
        stores.environment_keys.of_environment(EnvironmentId("env_none"), workspace_id=HERE),
        stores.environment_keys.revoke(environment_id, none, workspace_id=HERE, now=stores.clock.now()),
        stores.environment_keys.add(replace(key_of(stores, environment_id), workspace_id=ELSEWHERE)),
    ):
        assert isinstance(await error_of(refused), NotFound)
    cloud = key_of(stores, await environment(stores, "cloud"))
    assert isinstance(await error_of(stores.environment_keys.add(cloud)), InvalidRequest)
    await stores.environments.delete(environment_id, workspace_id=HERE)
    assert await stores.environment_keys.find(keys[1].sha256) is None


CHECKS = (
    check_work_is_offered_once_and_in_order,
    check_claims_at_once_get_different_items,
    check_an_unacknowledged_claim_goes_to_others,
    check_the_lease,
    check_a_lease_that_ends_puts_the_item_back,
    check_stopping,
    check_a_stop_that_nobody_confirms_is_one_in_time,
    check_an_item_that_nobody_has_stops_at_once,
    check_a_worker_that_got_on_leaves_the_rest_to_the_next,
    check_failed_work_waits_until_an_interrupt,
    check_what_an_operator_stops_stays_stopped,
    check_the_end_of_a_session_is_the_end_of_its_work,
    check_a_call_takes_one_result,
    check_lists_and_metadata,
    check_workers_that_poll_are_counted,
    check_environment_keys,
)
