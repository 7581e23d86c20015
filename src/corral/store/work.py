"""Queues of work on the database. `store.work_offer` has what makes and ends items.

Rules of this file:
- A claim, an acknowledgement and a heartbeat lock the item's row alone; a poll passes over rows that are
  locked. Only `stop` can end an item: it locks its session first, as whoever offers work does.
- Times are the database's, read when the transaction began.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)

from corral.kernel.clock import rfc3339
from corral.kernel.cursor import Page
from corral.kernel.errors import Conflict, HeartbeatRefused, NotFound
from corral.kernel.ids import (
    SESSIONS_TOKEN_PREFIX,
    EnvironmentId,
    SessionId,
    WorkId,
    WorkspaceId,
)
from corral.kernel.limits import (
    WORK_LEASE_SECONDS,
    WORK_STOP_SECONDS,
    WORK_STOPS_SECONDS,
    WORKER_SEEN_SECONDS,
)
from corral.session.events import SessionStatusIdle, UserToolResult, parse
from corral.session.inbox import left_to_run
from corral.session.work import (
    NO_HEARTBEAT,
    Beat,
    Claimed,
    Holder,
    Queue,
    QueueStats,
    Work,
    lease_seconds,
    requeued,
    retry_seconds,
    shown,
)
from corral.store.accept import lock_record, view_of
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.newest_first import NewestFirst
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import events, from_us, sessions, to_us, work, workers
from corral.store.work_offer import offer_work

__all__ = ["WorkTable"]

_COLUMNS = [work.c[each.name] for each in fields(Work)]
_WORK: AnySelect = select(*_COLUMNS).where(
    work.c.workspace_id == bindparam("of_workspace_id"),
    work.c.environment_id == bindparam("of_environment_id"),
)
_ITEM = _WORK.where(work.c.work_id == bindparam("of_work_id"))
_READ = Query(_ITEM)
_LOCKED = _ITEM.with_for_update()
_CHANGE = update(work).where(work.c.work_id == bindparam("of_work_id"))
_HISTORY = select(work.c.claimed_seq, work.c.failures, work.c.again).where(
    work.c.work_id == bindparam("of_work_id")
)
_IS_CLAIMED = work.c.claimed_at.is_not(None)
_IS_OFFERED = or_(
    and_(work.c.state == "queued", work.c.claimed_at.is_(None)),
    work.c.state.in_(["starting", "active"]),  # and the lease has ended
    and_(work.c.state == "stopping", work.c.again == 1),
)
_FREE = and_(
    work.c.state != "stopped",
    work.c.free_from <= bindparam("now"),
    or_(
        _IS_OFFERED,
        and_(work.c.state == "queued", _IS_CLAIMED, work.c.free_from <= bindparam("unacknowledged")),
    ),
)
_NEXT = _WORK.where(_FREE).order_by(work.c.free_from, work.c.work_id).limit(1)
_NEXT_LOCKED = _NEXT.with_for_update(skip_locked=True)
_CLAIM = _CHANGE.values(
    state="queued",
    claimed_at=bindparam("now"),
    free_from=bindparam("now"),
    queued_at=bindparam("since"),
    acknowledged_at=None,
    started_at=None,
    latest_heartbeat_at=None,
    previous_heartbeat_at=None,
    stop_requested_at=None,
    token_sha256=bindparam("token"),
    old_token_sha256=work.c.token_sha256,
    claimed_seq=select(sessions.c.last_seq)
    .where(sessions.c.session_id == work.c.session_id)
    .scalar_subquery(),
    again=0,
)
_HOLDER = select(
    work.c.work_id,
    work.c.workspace_id,
    work.c.environment_id,
    work.c.session_id,
    work.c.state,
    work.c.claimed_at,
    work.c.free_from,
    work.c.ttl_seconds,
    work.c.token_sha256,
).where(or_(work.c.token_sha256 == bindparam("of_token"), work.c.old_token_sha256 == bindparam("of_token")))
_PROGRESS = (
    select(events.c.type, events.c.body)
    .where(
        events.c.session_id == bindparam("of_session_id"),
        events.c.seq > bindparam("after_seq"),
        events.c.type.in_([UserToolResult.TYPE, SessionStatusIdle.TYPE]),
    )
    .order_by(events.c.seq)
)
_PREVIOUS = select(work.c.previous_heartbeat_at).where(work.c.work_id == bindparam("of_work_id"))


class WorkTable:
    """`session.work.WorkQueue`."""

    def __init__(self, database: Database, *, lease_seconds: int = WORK_LEASE_SECONDS) -> None:
        self._database = database
        self._lease_seconds = lease_seconds

    async def claim(self, queue: Queue, *, reclaim_seconds: float) -> Claimed | None:
        token = SESSIONS_TOKEN_PREFIX + secrets.token_urlsafe(32)

        def values(connection: Connection) -> dict[str, Any]:
            now = self._now(connection)
            return {**_of(queue), "now": now, "unacknowledged": now - timedelta(seconds=reclaim_seconds)}

        def look(connection: Connection) -> bool:
            return connection.execute(_NEXT, values(connection)).first() is not None

        def body(connection: Connection) -> Work | None:
            given = values(connection)
            row = connection.execute(_NEXT_LOCKED, given).first()
            if row is None:
                return None
            item = _work(row)
            again = item if item.state == "queued" else requeued(item)
            connection.execute(
                _CLAIM,
                {
                    "of_work_id": item.work_id,
                    "now": given["now"],
                    "since": again.queued_at,
                    "token": sha256(token.encode()).digest(),
                },
            )
            return replace(again, state="queued", claimed_at=given["now"], free_from=given["now"])

        if not await self._database.read(look):  # most polls find nothing: they write nothing, either
            return None
        claimed = await self._database.write(body)
        return None if claimed is None else Claimed(work=claimed, token=token)

    async def note_worker(self, queue: Queue, worker_id: str) -> None:
        row = {"environment_id": queue.environment_id, "worker_id": worker_id}
        of_worker = and_(*(workers.c[name] == value for name, value in row.items()))

        def body(connection: Connection) -> None:
            now = self._now(connection)
            connection.execute(
                delete(workers).where(
                    workers.c.environment_id == queue.environment_id,
                    or_(workers.c.seen_at < now - timedelta(seconds=WORKER_SEEN_SECONDS), of_worker),
                )
            )
            connection.execute(insert(workers), {**row, "seen_at": now})

        await self._database.write(body)

    async def acknowledge(self, queue: Queue, work_id: WorkId) -> Work:
        def body(connection: Connection) -> Work:
            now = self._now(connection)
            item = shown(_locked(connection, queue, work_id), now=now)
            if item.state in ("starting", "active"):
                return item
            if item.state in ("stopping", "stopped"):
                raise Conflict(f"Work item {work_id} is {item.state}; there is nothing to acknowledge")
            if item.claimed_at is None:
                raise Conflict(f"Work item {work_id} is nobody's: poll for it first")
            return self._change(
                connection,
                replace(
                    item,
                    state="starting",
                    acknowledged_at=now,
                    ttl_seconds=self._lease_seconds,
                    free_from=now + timedelta(seconds=self._lease_seconds),
                ),
            )

        return await self._database.write(body, checks_first=True)

    async def beat(
        self,
        queue: Queue,
        work_id: WorkId,
        *,
        expected: str | None,
        desired_seconds: int | None,
        is_repeat: bool,
    ) -> Beat:
        def body(connection: Connection) -> Beat:
            now = self._now(connection)
            item = shown(_locked(connection, queue, work_id), now=now)
            if item.state in ("stopping", "stopped"):
                return Beat(work=item, lease_extended=False)
            last = item.latest_heartbeat_at
            if item.state == "queued" or expected not in (None, _said(last)):
                previous = connection.scalar(_PREVIOUS, {"of_work_id": work_id})
                if is_repeat and item.state == "active" and expected == _said(previous):
                    return Beat(work=item, lease_extended=True)  # whose answer was lost
                raise _refused(item, expected)
            at = now if last is None else max(now, last + timedelta(microseconds=1))
            ttl_seconds = lease_seconds(desired_seconds, default=self._lease_seconds)
            changed = self._change(
                connection,
                replace(
                    item,
                    state="active",
                    started_at=item.started_at or at,
                    latest_heartbeat_at=at,
                    ttl_seconds=ttl_seconds,
                    free_from=now + timedelta(seconds=ttl_seconds),
                ),
                previous_heartbeat_at=last,
            )
            return Beat(work=changed, lease_extended=True)

        return await self._database.write(body, checks_first=True)

    async def stop(self, queue: Queue, work_id: WorkId, *, force: bool, by_worker: bool) -> Work:
        def body(connection: Connection) -> Work:
            row = connection.execute(_ITEM, _of(queue, work_id)).first()
            if row is None:
                raise _no_work(work_id)
            record = lock_record(connection, SessionId(row.session_id))
            now = self._now(connection)
            stored = _locked(connection, queue, work_id)
            item = shown(stored, now=now)
            if item.state == "stopped":
                raise Conflict(f"Work item {work_id} has stopped already")
            if item.state == "stopping" and not force:
                return item
            is_failure = by_worker and item.stop_requested_at is None
            history = connection.execute(_HISTORY, {"of_work_id": work_id}).one()
            failures, is_left = 0, False
            if is_failure and left_to_run(view_of(connection, record, (), now)):
                is_left = True
                if not _got_on(connection, record.session_id, history.claimed_seq):
                    failures = history.failures + 1
            pause_seconds = retry_seconds(failures) if failures else 0.0
            is_nobodys = item.state == "queued" and item.claimed_at is None
            if not force and not is_nobodys:
                # A worker that stops by itself is soon done; others are told by their next heartbeat.
                grace_seconds = max(WORK_STOPS_SECONDS, pause_seconds) if by_worker else WORK_STOP_SECONDS
                return self._change(
                    connection,
                    replace(
                        item,
                        state="stopping",
                        stop_requested_at=now,
                        free_from=now + timedelta(seconds=grace_seconds),
                    ),
                    failures=failures,
                    again=int(is_left),
                )
            stopped = self._change(
                connection,
                replace(
                    item,
                    state="stopped",
                    stop_requested_at=item.stop_requested_at or now,
                    stopped_at=now,
                    free_from=now,
                ),
                again=0,
            )
            if is_left or history.again:
                offer_work(
                    connection,
                    record.session_id,
                    now_us=to_us(now),
                    pause_seconds=0.0 if history.again else pause_seconds,
                    failures=failures,
                )
            return stopped

        return await self._database.write(body, checks_first=True)

    async def read(self, queue: Queue, work_id: WorkId) -> Work:
        def body(connection: Connection) -> Work:
            row = _READ.first(connection, _of(queue, work_id))
            if row is None:
                raise _no_work(work_id)
            return shown(_work(row), now=self._now(connection))

        return await self._database.read(body)

    async def update(
        self, queue: Queue, work_id: WorkId, change: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> Work:
        def body(connection: Connection) -> Work:
            stored = _locked(connection, queue, work_id)
            changed = replace(stored, metadata=change(stored.metadata))
            if changed != stored:
                connection.execute(_CHANGE.values(metadata=dict(changed.metadata)), {"of_work_id": work_id})
            return shown(changed, now=self._now(connection))

        return await self._database.write(body, checks_first=True)

    async def page(self, queue: Queue, *, limit: int, cursor: str | None) -> Page[Work]:
        listed = NewestFirst(kind=f"work of {queue.environment_id}", id_=work.c.work_id)
        statement = listed.behind(_WORK, cursor)

        def body(connection: Connection) -> Page[Work]:
            now = self._now(connection)
            return listed.page(
                connection,
                statement,
                _of(queue),
                limit=limit,
                item=lambda row: shown(_work(row), now=now),
            )

        return await self._database.read(body)

    async def stats(self, queue: Queue) -> QueueStats:
        is_due = work.c.free_from <= bindparam("now")
        is_waiting, is_pending = and_(_IS_OFFERED, is_due), and_(work.c.state == "queued", _IS_CLAIMED)
        since = case((work.c.state == "queued", work.c.queued_at), else_=work.c.free_from)
        statement = select(
            _count(is_waiting).label("depth"),
            _count(is_pending).label("pending"),
            func.min(type_coerce(since, BigInteger)).filter(or_(is_waiting, is_pending)).label("oldest"),
        ).where(
            work.c.workspace_id == bindparam("of_workspace_id"),
            work.c.environment_id == bindparam("of_environment_id"),
            work.c.state != "stopped",
        )
        polling = select(func.count()).where(
            workers.c.environment_id == bindparam("of_environment_id"),
            workers.c.seen_at >= bindparam("seen_since"),
        )

        def body(connection: Connection) -> QueueStats:
            now = self._now(connection)
            row = connection.execute(statement, {**_of(queue), "now": now}).one()
            seen_since = now - timedelta(seconds=WORKER_SEEN_SECONDS)
            of_workers = {"of_environment_id": queue.environment_id, "seen_since": seen_since}
            return QueueStats(
                depth=row.depth or 0,
                pending=row.pending or 0,
                oldest_queued_at=None if row.oldest is None else from_us(row.oldest),
                workers_polling=connection.scalar(polling, of_workers) or 0,
            )

        return await self._database.read(body)

    async def holder(self, token_sha256: bytes) -> Holder | None:
        def body(connection: Connection) -> Holder | None:
            row = connection.execute(_HOLDER, {"of_token": token_sha256}).first()
            if row is None:
                return None
            is_current = bytes(row.token_sha256) == token_sha256
            ends = row.free_from
            if row.state == "queued":  # an unacknowledged claim does not last for ever, either
                ends += timedelta(seconds=row.ttl_seconds)
            has_it = row.state != "stopped" and row.claimed_at is not None
            return Holder(
                work_id=WorkId(row.work_id),
                workspace_id=WorkspaceId(row.workspace_id),
                environment_id=EnvironmentId(row.environment_id),
                session_id=SessionId(row.session_id),
                is_current=is_current,
                holds=is_current and has_it and ends > self._now(connection),
            )

        return await self._database.read(body)

    def _now(self, connection: Connection) -> datetime:
        return from_us(self._database.now_us(connection))

    def _change(self, connection: Connection, item: Work, **more: Any) -> Work:
        """Write an item down as it is now. Under its row's lock."""
        values = {each.name: getattr(item, each.name) for each in fields(Work)}
        for name in ("work_id", "environment_id", "session_id", "created_at", "metadata"):
            del values[name]
        connection.execute(_CHANGE.values(values | more), {"of_work_id": item.work_id})
        return item


def _of(queue: Queue, work_id: WorkId | None = None) -> dict[str, Any]:
    of_queue = {"of_workspace_id": queue.workspace_id, "of_environment_id": queue.environment_id}
    return of_queue if work_id is None else {**of_queue, "of_work_id": work_id}


def _locked(connection: Connection, queue: Queue, work_id: WorkId) -> Work:
    row = connection.execute(_LOCKED, _of(queue, work_id)).first()
    if row is None:
        raise _no_work(work_id)
    return _work(row)


def _work(row: AnyRow) -> Work:
    return Work(**{each.name: getattr(row, each.name) for each in fields(Work)})


def _got_on(connection: Connection, session_id: SessionId, claimed_seq: int) -> bool:
    """Whether, since the claim, a worker's call was answered or a turn came to its end."""
    after_claim = {"of_session_id": session_id, "after_seq": claimed_seq}
    for row in connection.execute(_PROGRESS, after_claim):
        if row.type == UserToolResult.TYPE:
            return True
        idle = parse(bytes(row.body))
        assert isinstance(idle, SessionStatusIdle)
        if idle.stop_reason["type"] != "requires_action":
            return True
    return False


def _said(heartbeat: datetime | None) -> str:
    """What a worker has to expect that knows of this heartbeat."""
    return NO_HEARTBEAT if heartbeat is None else rfc3339(heartbeat)


def _refused(item: Work, expected: str | None) -> HeartbeatRefused:
    last = None if item.latest_heartbeat_at is None else rfc3339(item.latest_heartbeat_at)
    why = (
        "it is in the queue again, or was not acknowledged"
        if item.state == "queued"
        else f"expected_last_heartbeat is {expected!r}, the last heartbeat {last!r}"
    )
    return HeartbeatRefused(
        f"Work item {item.work_id} may be another worker's: {why}",
        last_heartbeat=last,
        state=item.state,
        ttl_seconds=item.ttl_seconds,
    )


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))


def _no_work(work_id: WorkId) -> NotFound:
    return NotFound(f"Work item {work_id!r} was not found.")
