"""What every session store must do. See contract_store."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import orjson

from corral.kernel.errors import Conflict, InvalidRequest, NotFound
from corral.kernel.ids import DEFAULT_WORKSPACE, SESSION, SessionId, WorkspaceId
from corral.kernel.limits import METADATA_PAIRS_MAX
from corral.session.log import EventFilter, Position
from corral.session.record import SessionChanges, SessionFilter, SessionOwner, SessionRecord
from corral.session.resources import Resource
from corral.testing.sessions import agent_message, new_session, user_message
from corral.testing.stores import Stores, error_of

here = partial(SessionFilter, workspace_id=DEFAULT_WORKSPACE)
ELSEWHERE = WorkspaceId("wrkspc_other")


async def check_create_reads_back(stores: Stores) -> None:
    record = new_session(stores.ids, stores.clock.now())
    assert await stores.sessions.create(record) == record
    assert await stores.sessions.read(record.session_id) == record
    assert await stores.leases.waiting(limit=9) == []


async def check_create_with_initial_events(stores: Stores) -> None:
    record = new_session(stores.ids, stores.clock.now())
    inputs = [user_message(stores.ids, "one"), user_message(stores.ids, "two")]
    stored = await stores.sessions.create(record, initial=inputs)
    assert stored == replace(record, status="running", last_arrival=2)
    seen = await stores.log.snapshot(record.session_id)
    assert [entry.event_id for entry in seen.inbox] == [event.id for event in inputs]
    assert await stores.leases.waiting(limit=9) == [record.session_id]


async def check_unknown_and_deleted_sessions(stores: Stores) -> None:
    record = await stores.session()
    await stores.sessions.delete(record.session_id)
    for session_id in (record.session_id, SessionId(stores.ids.mint(SESSION))):
        now = stores.clock.now()
        for action in (
            stores.sessions.read(session_id),
            stores.sessions.update(session_id, SessionChanges(given=frozenset())),
            stores.sessions.archive(session_id),
            stores.sessions.delete(session_id),
            stores.log.accept(session_id, [user_message(stores.ids)], now=now),
            stores.log.snapshot(session_id),
            stores.log.tail(session_id, Position(), limit=1),
            stores.log.page(session_id, EventFilter(), descending=True, limit=1),
        ):
            assert isinstance(await error_of(action), NotFound)


async def check_update_tells_what_changed(stores: Stores) -> None:
    record = await stores.session()

    async def update(**changes: object) -> tuple[SessionRecord, list[dict[str, object]]]:
        """The record, and the session.updated events that the update has appended, without their head."""
        stores.clock.advance(1)
        before = (await stores.sessions.read(record.session_id)).last_seq
        given = SessionChanges(given=frozenset(changes), **changes)  # type: ignore[arg-type]
        changed = await stores.sessions.update(record.session_id, given)
        events = (await stores.log.snapshot(record.session_id, after_seq=before)).events
        bodies = [orjson.loads(event.body) for event in events]
        assert all(body["type"] == "session.updated" and body["processed_at"] for body in bodies)
        return changed, [
            {key: value for key, value in body.items() if key not in ("id", "type", "processed_at")}
            for body in bodies
        ]

    changed, news = await update(title="a title")
    assert (changed.title, news) == ("a title", [{"title": "a title"}])
    assert changed.updated_at > record.updated_at
    assert await update(title="a title") == (changed, [])
    changed, news = await update(metadata={"team": None, "a": "1"})
    assert (changed.metadata, news) == ({"a": "1"}, [{"metadata": {"a": "1"}}])
    changed, news = await update(title=None, metadata={"a": None})
    assert (changed.title, changed.metadata, news) == (None, {}, [{"title": None}])
    default = {"enabled": True, "permission_policy": {"type": "always_allow"}}
    tools = [{"type": "agent_toolset_20260401", "configs": [], "default_config": default}]
    changed, news = await update(tools=tools)
    assert changed.agent == {**record.agent, "tools": tools}
    assert changed.threads[0].agent == {**record.threads[0].agent, "tools": tools}
    assert news == [{"agent": changed.agent}]
    assert await stores.leases.waiting(limit=9) == [], "nobody needs to think about an update"


async def check_update_refuses(stores: Stores) -> None:
    lease = await stores.leased()
    many = SessionChanges(
        given=frozenset({"metadata"}), metadata={f"k{n}": "v" for n in range(METADATA_PAIRS_MAX)}
    )
    assert isinstance(await error_of(stores.sessions.update(lease.session_id, many)), InvalidRequest)
    await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)]))
    before = await stores.log.snapshot(lease.session_id)
    tools = SessionChanges(given=frozenset({"title", "tools"}), title="x", tools=[{"type": "custom"}])
    assert isinstance(await error_of(stores.sessions.update(lease.session_id, tools)), InvalidRequest)
    assert await stores.log.snapshot(lease.session_id) == before


async def check_archive(stores: Stores) -> None:
    record = await stores.session()
    stores.clock.advance(1)
    archived = await stores.sessions.archive(record.session_id)
    assert archived.status == "terminated"
    assert archived.archived_at == archived.terminated_at == stores.clock.now()
    assert [thread.status for thread in archived.threads] == ["terminated"]
    events = (await stores.log.snapshot(record.session_id)).events
    assert [event.type for event in events] == [
        "session.thread_status_terminated",
        "session.status_terminated",
    ]
    stores.clock.advance(1)
    assert await stores.sessions.archive(record.session_id) == archived
    [work] = await stores.cleanup.pending(limit=9)
    assert (work.session_id, work.kind) == (record.session_id, "sandbox")
    await stores.cleanup.done([work])
    await stores.cleanup.done([work])
    assert await stores.cleanup.pending(limit=9) == []
    title = SessionChanges(given=frozenset({"title"}), title="x")
    assert isinstance(await error_of(stores.sessions.update(record.session_id, title)), Conflict)
    message = stores.log.accept(record.session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert isinstance(await error_of(message), Conflict)


async def check_archive_and_delete_refuse_work(stores: Stores) -> None:
    lease = await stores.leased()
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert isinstance(await error_of(stores.sessions.archive(lease.session_id)), InvalidRequest)
    for status in ("running", "rescheduling"):
        draft = await stores.draft(lease)
        await stores.log.append(
            draft.append([agent_message(stores.ids)], takes=draft.seen.inbox, status=status)
        )
        assert isinstance(await error_of(stores.sessions.archive(lease.session_id)), InvalidRequest)
        assert isinstance(await error_of(stores.sessions.delete(lease.session_id)), InvalidRequest)
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    draft = await stores.draft(lease)
    await stores.log.append(draft.append([agent_message(stores.ids)], status="idle", needs_brain=False))
    waits = "a message waits behind a requires_action"
    assert isinstance(await error_of(stores.sessions.archive(lease.session_id)), InvalidRequest), waits
    draft = await stores.draft(lease)
    await stores.log.append(draft.append(takes=draft.seen.inbox, status="idle", needs_brain=False))
    await stores.sessions.archive(lease.session_id)


async def check_delete_leaves_work_for_the_hands(stores: Stores) -> None:
    lease = await stores.leased()
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    await stores.sessions.delete(lease.session_id)
    assert [(work.session_id, work.kind) for work in await stores.cleanup.pending(limit=9)] == [
        (lease.session_id, "workspace")
    ]
    assert await stores.leases.waiting(limit=9) == []
    assert await stores.leases.renew([lease]) == []
    again = replace(new_session(stores.ids, stores.clock.now()), session_id=lease.session_id)
    await stores.sessions.create(again)
    seen = await stores.log.snapshot(lease.session_id)
    assert (list(seen.events), list(seen.inbox)) == ([], []), "nothing of it was left"


async def check_session_list(stores: Stores) -> None:
    """Both orders, forwards and backwards, also where several were created in the same microsecond."""
    now = stores.clock.now()
    records = [
        await stores.sessions.create(new_session(stores.ids, now + timedelta(microseconds=number // 2)))
        for number in range(7)
    ]
    records.sort(key=lambda record: (record.created_at, record.session_id))
    for descending in (False, True):
        expected = records[::-1] if descending else records
        given: list[SessionRecord] = []
        after = None
        while True:
            page = await stores.sessions.page(here(), descending=descending, limit=2, after=after)
            assert page.has_previous == bool(given)
            given += page.sessions
            if not page.has_more:
                break
            after = (given[-1].created_at, given[-1].session_id)
        assert given == expected
        before = (expected[5].created_at, expected[5].session_id)
        page = await stores.sessions.page(here(), descending=descending, limit=2, before=before)
        assert (list(page.sessions), page.has_more, page.has_previous) == (expected[3:5], True, True)
        before = (expected[2].created_at, expected[2].session_id)
        page = await stores.sessions.page(here(), descending=descending, limit=2, before=before)
        assert (list(page.sessions), page.has_more, page.has_previous) == (expected[:2], True, False)
        # A place whose own session does not match, at either end: beyond it is nothing.
        end = expected[-1].created_at + timedelta(days=-1 if descending else 1), "sesn_gone"
        page = await stores.sessions.page(here(), descending=descending, limit=2, before=end)
        assert (list(page.sessions), page.has_more, page.has_previous) == (expected[-2:], False, True)
        start = expected[0].created_at + timedelta(days=1 if descending else -1), "sesn_gone"
        page = await stores.sessions.page(here(), descending=descending, limit=2, after=start)
        assert (list(page.sessions), page.has_more, page.has_previous) == (expected[:2], True, False)


async def check_owners(stores: Stores) -> None:
    """Of sessions that live and of those just deleted; lists have none of another workspace or key."""
    mine = await stores.session()
    record = new_session(stores.ids, stores.clock.now())
    record = replace(record, workspace_id=ELSEWHERE, api_key_id="apikey_1")
    assert (await stores.sessions.create(record)).workspace_id == ELSEWHERE
    theirs = SessionOwner(ELSEWHERE, "apikey_1")
    assert await stores.sessions.owner_of(record.session_id) == theirs
    assert await stores.sessions.owner_of(mine.session_id) == SessionOwner(DEFAULT_WORKSPACE, None)
    assert await stores.sessions.owner_of(SessionId(stores.ids.mint(SESSION))) is None
    for where, found in (
        (here(), [mine.session_id]),
        (SessionFilter(workspace_id=ELSEWHERE), [record.session_id]),
        (SessionFilter(workspace_id=ELSEWHERE, api_key_id="apikey_1"), [record.session_id]),
        (SessionFilter(workspace_id=ELSEWHERE, api_key_id="apikey_2"), []),
    ):
        page = await stores.sessions.page(where, descending=True, limit=9)
        assert [each.session_id for each in page.sessions] == found
    await stores.sessions.delete(record.session_id)
    assert await stores.sessions.owner_of(record.session_id) == theirs


async def check_session_filters(stores: Stores) -> None:
    first, second, third = [await stores.session() for _ in range(3)]
    await stores.log.accept(second.session_id, [user_message(stores.ids)], now=stores.clock.now())
    [lease] = await stores.leases.claim(owner="b", limit=1, session_ids=[second.session_id])
    await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)]))
    await stores.sessions.archive(third.session_id)

    async def listed(where: SessionFilter) -> list[str]:
        page = await stores.sessions.page(where, descending=False, limit=100)
        return [record.session_id for record in page.sessions]

    one, two, three = first.session_id, second.session_id, third.session_id
    assert await listed(here()) == [one, two]
    assert await listed(here(include_archived=True)) == [one, two, three]
    assert await listed(here(statuses=["running"])) == [two]
    assert await listed(here(statuses=["idle", "terminated"], include_archived=True)) == [
        one,
        three,
    ]
    assert await listed(here(agent_id="agent_test", agent_version=3)) == [one, two]
    assert await listed(here(agent_id="agent_test", agent_version=4)) == []
    assert await listed(here(agent_id="agent_other")) == []
    assert await listed(here(created_gt=first.created_at)) == [two]
    assert await listed(here(created_gte=second.created_at)) == [two]
    assert await listed(here(created_lt=second.created_at)) == [one]
    assert await listed(here(created_lte=second.created_at)) == [one, two]


async def check_sessions_of_a_memory_store(stores: Stores) -> None:
    ids = []
    for attached in (("memstore_1",), ("memstore_1", "memstore_2"), ()):
        stores.clock.advance(1)
        record = replace(
            new_session(stores.ids, stores.clock.now()),
            resources=[
                Resource(body={"type": "memory_store", "memory_store_id": each}) for each in attached
            ],
        )
        await stores.sessions.create(record)
        ids.append(record.session_id)

    async def listed(where: SessionFilter) -> list[str]:
        page = await stores.sessions.page(where, descending=False, limit=9)
        return [record.session_id for record in page.sessions]

    assert await listed(here(memory_store_id="memstore_1")) == ids[:2]
    assert await listed(here(memory_store_id="memstore_2")) == ids[1:2]
    assert await listed(here(memory_store_id="memstore_3")) == []
    await stores.sessions.delete(ids[1])
    assert await listed(here(memory_store_id="memstore_1")) == ids[:1]


CHECKS = tuple(check for name, check in list(globals().items()) if name.startswith("check_"))
