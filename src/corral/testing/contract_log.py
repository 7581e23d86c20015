"""What every session log, lease store and bus must do. See contract_store."""

import asyncio
from dataclasses import replace

from corral.kernel.errors import CallerError, InvalidRequest, LeaseLost, Stale
from corral.kernel.ids import THREAD, SessionId, ThreadId
from corral.kernel.limits import (
    INBOX_EVENTS_MAX,
    LEASE_TTL_SECONDS,
    SESSION_BACKOFF_SECONDS,
    TAIL_LOOK_SESSIONS_MAX,
)
from corral.session.bus import Committed, Deleted
from corral.session.lease import Claim, Lease
from corral.session.log import Append, EventFilter, InboxEntry, Position, StoredEvent
from corral.session.record import SessionChanges, ThreadRecord
from corral.testing.sessions import (
    agent_message,
    custom_tool_result,
    custom_tool_use,
    new_session,
    user_message,
)
from corral.testing.stores import Stores, error_of


async def check_append_stores_what_it_is_given(stores: Stores) -> None:
    draft = await stores.draft(await stores.leased())
    append = draft.append([agent_message(stores.ids, "ä"), agent_message(stores.ids)])
    stored = await stores.log.append(append)
    assert [event.seq for event in stored] == [1, 2]
    seen = await stores.log.snapshot(append.session_id)
    assert list(seen.events) == list(stored)
    assert [event.private for event in seen.events] == [new.private for new in append.events]
    assert [event.processed_at for event in seen.events] == [new.processed_at for new in append.events]
    record = seen.record
    assert (record.status, record.usage) == (append.derived.status, append.derived.usage)
    assert record.active_seconds == append.derived.active_seconds
    assert record.running_since == append.derived.running_since
    assert list(record.threads) == list(append.derived.threads)
    assert (await stores.log.snapshot(append.session_id, after_seq=1)).events == [stored[1]]


async def check_append_adds_new_threads(stores: Stores) -> None:
    lease = await stores.leased()
    append = (await stores.draft(lease)).append([agent_message(stores.ids)])
    helper = ThreadRecord(
        thread_id=ThreadId(stores.ids.mint(THREAD)),
        parent_thread_id=append.derived.threads[0].thread_id,
        agent={"name": "helper"},
        created_at=stores.clock.now(),
        updated_at=stores.clock.now(),
    )
    threads = [*append.derived.threads, helper]
    await stores.log.append(replace(append, derived=replace(append.derived, threads=threads)))
    assert list((await stores.sessions.read(lease.session_id)).threads) == threads
    # Threads that an append does not mention stay as they are.
    append = (await stores.draft(lease)).append([agent_message(stores.ids)])
    await stores.log.append(replace(append, derived=replace(append.derived, threads=())))
    assert list((await stores.sessions.read(lease.session_id)).threads) == threads
    append = (await stores.draft(lease)).append([agent_message(stores.ids)])
    busy = replace(helper, status="running", updated_at=append.events[-1].processed_at)
    await stores.log.append(replace(append, derived=replace(append.derived, threads=[busy])))
    assert list((await stores.sessions.read(lease.session_id)).threads) == [threads[0], busy]


async def check_append_takes_inputs_from_the_inbox(stores: Stores) -> None:
    lease = await stores.leased()
    messages = [user_message(stores.ids, text) for text in ("one", "two", "three")]
    await stores.log.accept(lease.session_id, messages, now=stores.clock.now())
    draft = await stores.draft(lease)
    third, first = draft.seen.inbox[2], draft.seen.inbox[0]
    await stores.log.append(draft.append(takes=[third, first]))
    seen = await stores.log.snapshot(lease.session_id)
    assert [(event.event_id, event.arrival) for event in seen.events] == [
        (third.event_id, 3),
        (first.event_id, 1),
    ]
    assert [entry.arrival for entry in seen.inbox] == [2]


async def check_append_is_fenced(stores: Stores) -> None:
    """A newer epoch, a released lease and an ended one all stop the old brain; time alone does not."""
    lease = await stores.leased()
    stores.clock.advance(LEASE_TTL_SECONDS + 1)
    await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)]))
    [newer] = await stores.leases.claim(owner="brain-2", limit=1, session_ids=[lease.session_id])
    assert newer.epoch == lease.epoch + 1
    append = (await stores.draft(lease)).append([agent_message(stores.ids)])
    assert isinstance(await error_of(stores.log.append(append)), LeaseLost)
    await stores.leases.release([newer])
    append = (await stores.draft(newer)).append([agent_message(stores.ids)])
    assert isinstance(await error_of(stores.log.append(append)), LeaseLost)
    assert (await stores.sessions.read(lease.session_id)).last_seq == 1


async def check_append_is_refused_when_anything_moved(stores: Stores) -> None:
    lease = await stores.leased()
    old = await stores.draft(lease)
    await stores.log.append(old.append([agent_message(stores.ids)]))
    assert isinstance(await error_of(stores.log.append(old.append([agent_message(stores.ids)]))), Stale)
    old = await stores.draft(lease)
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert isinstance(await error_of(stores.log.append(old.append([agent_message(stores.ids)]))), Stale)
    assert (await stores.sessions.read(lease.session_id)).last_seq == 1


async def check_append_again_returns_what_is_stored(stores: Stores) -> None:
    append = (await stores.draft(await stores.leased())).append([agent_message(stores.ids)], releases=True)
    stored = await stores.log.append(append)
    assert list(await stores.log.append(append)) == list(stored)
    assert (await stores.sessions.read(append.session_id)).last_seq == 1


async def check_claim_by_append(stores: Stores) -> None:
    record = await stores.session()
    claim = Claim(session_id=record.session_id, owner="brain-1", epoch=1)
    await stores.log.append((await stores.draft(claim)).append([agent_message(stores.ids)]))
    lease = Lease(session_id=record.session_id, owner="brain-1", epoch=1)
    assert await stores.leases.renew([lease]) == [lease]
    rival = Claim(session_id=record.session_id, owner="brain-2", epoch=2)
    append = (await stores.draft(rival)).append([agent_message(stores.ids)])
    assert isinstance(await error_of(stores.log.append(append)), LeaseLost), "the lease is live"
    stores.clock.advance(LEASE_TTL_SECONDS + 1)
    await stores.log.append(append)
    assert await stores.leases.renew([lease]) == []


async def check_of_rival_appends_one_wins(stores: Stores) -> None:
    """Many appends at once, several of each session: per session one is granted, the others are Stale."""
    drafts = [await stores.draft(await stores.leased()) for _ in range(8)]
    appends = [draft.append([agent_message(stores.ids)]) for draft in drafts for _ in range(4)]
    errors = await asyncio.gather(*(error_of(stores.log.append(append)) for append in appends))
    granted: dict[SessionId, int] = {}
    for append, error in zip(appends, errors, strict=True):
        assert error is None or isinstance(error, Stale)
        granted[append.session_id] = granted.get(append.session_id, 0) + (error is None)
    assert set(granted.values()) == {1}


async def check_only_the_guilty_append_fails(stores: Stores) -> None:
    """An append that answers an answered call spoils no other of its batch."""
    lease = await stores.leased()
    use = custom_tool_use(stores.ids)
    await stores.log.append((await stores.draft(lease)).append([use]))
    result = custom_tool_result(stores.ids, use.id)
    await stores.log.accept(lease.session_id, [result], now=stores.clock.now())
    second = custom_tool_result(stores.ids, use.id)
    guilty = (await stores.draft(lease)).append([second], answers={second.id: use.id})
    others = [
        (await stores.draft(await stores.leased())).append([agent_message(stores.ids)]) for _ in range(5)
    ]
    batch: list[Append] = [*others[:2], guilty, *others[2:]]
    errors = await asyncio.gather(*(error_of(stores.log.append(append)) for append in batch))
    assert [type(error) for error in errors] == [type(None), type(None), Stale, *[type(None)] * 3]
    assert (await stores.sessions.read(guilty.session_id)).last_seq == 2


async def check_an_ended_session_takes_no_append(stores: Stores) -> None:
    lease = await stores.leased()
    await stores.log.append(
        (await stores.draft(lease)).append([agent_message(stores.ids)], status="terminated")
    )
    append = (await stores.draft(lease)).append([agent_message(stores.ids)])
    assert isinstance(await error_of(stores.log.append(append)), LeaseLost)
    assert [work.kind for work in await stores.cleanup.pending(limit=9)] == ["sandbox"]


async def check_accept_is_all_or_nothing(stores: Stores) -> None:
    record = await stores.session()
    wrong = custom_tool_result(stores.ids, stores.ids.event())
    inputs = [user_message(stores.ids), wrong]
    error = await error_of(stores.log.accept(record.session_id, inputs, now=stores.clock.now()))
    assert isinstance(error, InvalidRequest)
    assert await stores.sessions.read(record.session_id) == record
    assert await stores.leases.waiting(limit=9) == []


async def check_accept_has_a_bound(stores: Stores) -> None:
    record = await stores.session()
    many = [user_message(stores.ids) for _ in range(INBOX_EVENTS_MAX)]
    await stores.log.accept(record.session_id, many, now=stores.clock.now())
    one_more = stores.log.accept(record.session_id, [user_message(stores.ids)], now=stores.clock.now())
    assert isinstance(await error_of(one_more), CallerError)


async def check_the_first_result_wins(stores: Stores) -> None:
    lease = await stores.leased()
    use = custom_tool_use(stores.ids)
    await stores.log.append((await stores.draft(lease)).append([use], needs_brain=False, releases=True))
    result = custom_tool_result(stores.ids, use.id)
    [stored] = await stores.log.accept(lease.session_id, [result], now=stores.clock.now())
    assert isinstance(stored, StoredEvent)
    assert (stored.seq, stored.answers) == (2, use.id)
    assert await stores.leases.waiting(limit=9) == [lease.session_id]
    again = custom_tool_result(stores.ids, use.id)
    assert await stores.log.accept(lease.session_id, [again], now=stores.clock.now()) == [stored]
    assert (await stores.sessions.read(lease.session_id)).last_seq == 2


async def check_claims(stores: Stores) -> None:
    """Only what needs a brain, oldest need first; each once; again when the lease is over."""
    records = [await stores.session() for _ in range(3)]
    for record in reversed(records[1:]):
        stores.clock.advance(1)
        await stores.log.accept(record.session_id, [user_message(stores.ids)], now=stores.clock.now())
    needing = [records[2].session_id, records[1].session_id]
    assert await stores.leases.waiting(limit=9) == needing
    first = await stores.leases.claim(owner="brain-1", limit=1)
    assert [lease.session_id for lease in first] == needing[:1]
    rest = await stores.leases.claim(owner="brain-2", limit=9)
    assert [lease.session_id for lease in rest] == needing[1:]
    assert await stores.leases.claim(owner="brain-3", limit=9) == []
    assert await stores.leases.waiting(limit=9) == []
    stores.clock.advance(LEASE_TTL_SECONDS / 2)
    assert await stores.leases.renew([*first, *rest[:0]]) == first
    stores.clock.advance(LEASE_TTL_SECONDS / 2 + 1)
    assert [lease.session_id for lease in await stores.leases.claim(owner="brain-3", limit=9)] == needing[
        1:
    ]
    assert await stores.leases.renew(rest) == []
    assert len(await stores.leases.end(owner_prefix="brain-", except_owner="brain-3")) == 1
    assert await stores.leases.waiting(limit=9) == needing[:1]


async def check_failures_are_counted(stores: Stores) -> None:
    """A lease that passes, a fail and a dead incarnation count, each once; a release forgets them."""
    lease = await stores.leased()
    session_id = lease.session_id

    async def failures() -> int:
        return (await stores.sessions.read(session_id)).failures

    await stores.leases.fail([lease])
    await stores.leases.fail([lease])
    assert await failures() == 1
    [lease] = await stores.leases.claim(owner="brain-1", limit=1, session_ids=[session_id])
    assert lease.failures == 1, "the first failure costs no time"
    stores.clock.advance(LEASE_TTL_SECONDS)
    assert await stores.leases.failures([session_id]) == {session_id: 1}, (
        "backed off, so not taken away yet"
    )
    assert await stores.leases.claim(owner="brain-2", limit=1, session_ids=[session_id]) == []
    stores.clock.advance(SESSION_BACKOFF_SECONDS)
    assert await stores.leases.failures([session_id]) == {session_id: 2}
    [lease] = await stores.leases.claim(owner="brain-2", limit=1, session_ids=[session_id])
    assert (lease.failures, await failures()) == (2, 2)
    assert await stores.leases.end(owner_prefix="brain-", except_owner="brain-1") == []
    assert await failures() == 3
    stores.clock.advance(2 * SESSION_BACKOFF_SECONDS)
    [lease] = await stores.leases.claim(owner="brain-3", limit=1, session_ids=[session_id])
    await stores.leases.release([lease], pause_seconds=1.0)
    assert await failures() == 3, "whoever gives it back may not have got on with it"
    assert await stores.leases.claim(owner="brain-3", limit=1, session_ids=[session_id]) == []
    stores.clock.advance(1.0)
    [lease] = await stores.leases.claim(owner="brain-3", limit=1, session_ids=[session_id])
    assert lease.failures == 3
    seen = await stores.log.snapshot(session_id)
    await stores.leases.rest(lease, seen_seq=seen.record.last_seq, seen_arrival=seen.record.last_arrival)
    assert await failures() == 0
    assert await stores.leases.failures([session_id]) == {}


async def check_backoff_holds_for_every_claim(stores: Stores) -> None:
    """A new message neither ends the wait nor is lost; the wait doubles up to its bound."""
    lease = await stores.leased()
    session_id = lease.session_id
    for wait in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        wait *= SESSION_BACKOFF_SECONDS
        await stores.leases.fail([lease])
        await stores.log.accept(session_id, [user_message(stores.ids)], now=stores.clock.now())
        if wait:
            stores.clock.advance(wait - 0.1)
            assert await stores.leases.waiting(limit=9) == []
            assert await stores.leases.claim(owner="b", limit=9) == []
            claim = Claim(session_id=session_id, owner="b", epoch=lease.epoch + 1)
            append = (await stores.draft(claim)).append([agent_message(stores.ids)])
            assert isinstance(await error_of(stores.log.append(append)), LeaseLost)
            stores.clock.advance(0.1)
        assert await stores.leases.waiting(limit=9) == [session_id]
        [lease] = await stores.leases.claim(owner="b", limit=9)
    assert len((await stores.log.snapshot(session_id)).inbox) == 9


async def check_getting_on_forgets_failures(stores: Stores) -> None:
    lease = await stores.leased()
    session_id = lease.session_id
    await stores.leases.fail([lease])
    claim = Claim(session_id=session_id, owner="b", epoch=lease.epoch + 1)
    await stores.log.append((await stores.draft(claim)).append([agent_message(stores.ids)]))
    assert (await stores.sessions.read(session_id)).failures == 1, "a start is no progress"
    lease = Lease(session_id=session_id, owner="b", epoch=claim.epoch)
    await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)], gets_on=True))
    assert (await stores.sessions.read(session_id)).failures == 0
    stores.clock.advance(LEASE_TTL_SECONDS + 1)
    claim = Claim(session_id=session_id, owner="c", epoch=lease.epoch + 1)
    await stores.log.append((await stores.draft(claim)).append([agent_message(stores.ids)]))
    assert (await stores.sessions.read(session_id)).failures == 1, "the lease had not been given back"
    lease = Lease(session_id=session_id, owner="c", epoch=claim.epoch)
    await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)], releases=True))
    assert (await stores.sessions.read(session_id)).failures == 0


async def check_a_rest_takes_a_session_off_the_queue(stores: Stores) -> None:
    """Nothing to write, so no append says that it was looked at; unless something has come meanwhile."""
    for comes in (False, True):
        record = await stores.session()
        await stores.log.accept(record.session_id, [user_message(stores.ids)], now=stores.clock.now())
        [lease] = await stores.leases.claim(owner="b", limit=1, session_ids=[record.session_id])
        seen = (await stores.log.snapshot(record.session_id)).record
        if comes:
            await stores.log.accept(record.session_id, [user_message(stores.ids)], now=stores.clock.now())
        await stores.leases.rest(lease, seen_seq=seen.last_seq, seen_arrival=seen.last_arrival)
        assert await stores.leases.waiting(limit=9) == [record.session_id] * comes
        assert await stores.leases.renew([lease]) == []


async def check_keys_take_turns(stores: Stores) -> None:
    """A key with many waiting sessions does not stand in the way of one with few."""
    waiting: dict[str | None, list[SessionId]] = {"many": [], "few": [], None: []}
    for key, count in (("many", 7), ("few", 2), (None, 1)):
        for _ in range(count):
            stores.clock.advance(1)
            record = replace(new_session(stores.ids, stores.clock.now()), api_key_id=key)
            await stores.sessions.create(record, initial=[user_message(stores.ids)])
            waiting[key].append(record.session_id)
    many, few, none = waiting["many"], waiting["few"], waiting[None]
    expected = [many[0], few[0], none[0], many[1], few[1], *many[2:]]
    assert await stores.leases.waiting(limit=99) == expected
    claimed = await stores.leases.claim(owner="b", limit=4)
    assert [lease.session_id for lease in claimed] == expected[:4]


async def check_rival_claims_never_share(stores: Stores) -> None:
    for _ in range(20):
        record = await stores.session()
        await stores.log.accept(record.session_id, [user_message(stores.ids)], now=stores.clock.now())
    claims = await asyncio.gather(*(stores.leases.claim(owner=f"b-{n}", limit=7) for n in range(5)))
    claimed = [lease.session_id for leases in claims for lease in leases]
    assert len(claimed) == len(set(claimed)) == 20


async def check_pages_miss_nothing_that_moves(stores: Stores) -> None:
    """Inputs that a brain takes while they are being listed are still given."""
    for descending in (False, True):
        lease = await stores.leased()
        await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)]))
        inputs = [user_message(stores.ids) for _ in range(6)]
        await stores.log.accept(lease.session_id, inputs, now=stores.clock.now())
        given: list[StoredEvent | InboxEntry] = []
        position: Position | None = None
        while True:
            page = await stores.log.page(
                lease.session_id, EventFilter(), descending=descending, limit=2, after=position
            )
            given += page.events
            position = page.next_position
            if position is None:
                break
            draft = await stores.draft(lease)
            if draft.seen.inbox:  # from the end that the listing has not reached
                await stores.log.append(draft.append(takes=[draft.seen.inbox[0 if descending else -1]]))
        assert {event.id for event in inputs} <= {entry.event_id for entry in given}


async def check_page_filters(stores: Stores) -> None:
    lease = await stores.leased()
    for text in ("a", "b", "c"):
        stores.clock.advance(10)
        await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids, text)]))
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    events = (await stores.log.snapshot(lease.session_id)).events
    middle = events[1].processed_at

    async def seqs(where: EventFilter) -> list[int]:
        page = await stores.log.page(lease.session_id, where, descending=False, limit=100)
        return [entry.seq if isinstance(entry, StoredEvent) else 0 for entry in page.events]

    assert await seqs(EventFilter()) == [1, 2, 3, 0]
    assert await seqs(EventFilter(types=["user.message"])) == [0]
    assert await seqs(EventFilter(thread_id=events[0].thread_id)) == [1, 2, 3, 0]
    assert await seqs(EventFilter(thread_id=ThreadId("sthr_other"))) == []
    assert await seqs(EventFilter(created_gt=middle)) == [3]
    assert await seqs(EventFilter(created_gte=middle)) == [2, 3]
    assert await seqs(EventFilter(created_lt=middle)) == [1]
    assert await seqs(EventFilter(created_lte=middle)) == [1, 2]


async def check_ends_are_where_tails_stop(stores: Stores) -> None:
    lease, other = await stores.leased(), await stores.session()
    gone = await stores.session()
    await stores.log.append((await stores.draft(lease)).append([agent_message(stores.ids)]))
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    await stores.sessions.delete(gone.session_id)
    asked = [lease.session_id, other.session_id, gone.session_id, SessionId("sesn_unknown")]
    assert await stores.log.ends(asked) == {
        lease.session_id: Position(seq=1, arrival=1),
        other.session_id: Position(),
    }
    end = Position(seq=1, arrival=1)
    assert not (await stores.log.tail(lease.session_id, end, limit=9)).events
    many = [SessionId(f"sesn_{number}") for number in range(TAIL_LOOK_SESSIONS_MAX - 1)]
    assert set(await stores.log.ends([*many, other.session_id])) == {other.session_id}


async def check_the_bus_hears_of_commits(stores: Stores) -> None:
    lease = await stores.leased()
    async with stores.bus.subscribe(lease.session_id, buffer=10) as messages:
        [entry] = await stores.log.accept(
            lease.session_id, [user_message(stores.ids)], now=stores.clock.now()
        )
        assert await anext(messages) == Committed(session_id=lease.session_id, entries=(entry,))
        draft = await stores.draft(lease)
        stored = await stores.log.append(draft.append(takes=draft.seen.inbox, status="idle"))
        assert await anext(messages) == Committed(session_id=lease.session_id, entries=tuple(stored))
        await stores.sessions.update(
            lease.session_id, SessionChanges(given=frozenset({"title"}), title="x")
        )
        message = await anext(messages)
        assert isinstance(message, Committed)
        assert [entry.type for entry in message.entries] == ["session.updated"]
        await stores.sessions.delete(lease.session_id)
        assert await anext(messages) == Deleted(session_id=lease.session_id)
    woken = stores.bus.wakes()
    assert await anext(woken) == lease.session_id


CHECKS = tuple(check for name, check in list(globals().items()) if name.startswith("check_"))
