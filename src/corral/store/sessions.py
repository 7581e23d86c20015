"""Session records on the database. Lists are in session_list; the log is in log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, func, insert, select, union_all, update

from corral.catalog.mcp.servers import check_mcp_networking
from corral.catalog.metadata import merged
from corral.catalog.repositories import SealedToken
from corral.catalog.skills.attached import check_readable
from corral.catalog.toolset import check_servers, check_web_networking
from corral.kernel.clock import Clock
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import Ids, SessionId, WorkspaceId
from corral.kernel.limits import TOMBSTONE_SECONDS
from corral.session.budget import changed_budget, is_paused
from corral.session.bus import Bus, Committed, Deleted
from corral.session.content import Json
from corral.session.events import (
    Event,
    SessionStatusTerminated,
    SessionThreadStatusTerminated,
    SessionUpdated,
)
from corral.session.inbox import Admitted, is_self_hosted
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import (
    SessionChanges,
    SessionFilter,
    SessionOwner,
    SessionPage,
    SessionRecord,
)
from corral.session.resources import FileCopy
from corral.session.work import topic
from corral.store.accept import Fact, lock_record, log_facts, store_inputs
from corral.store.cleanup import queue_cleanup
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.files.session import copy_to_session, delete_session_files
from corral.store.reading import not_found
from corral.store.repository_tokens import forget_tokens, insert_tokens
from corral.store.rows import insert_threads, read_record, stored_resources
from corral.store.schema import (
    checkpoints,
    events,
    from_us,
    inbox,
    session_details,
    session_memory_stores,
    sessions,
    thread_details,
    threads,
    tombstones,
)
from corral.store.session_list import session_page
from corral.store.skills.sessions import keep_skills
from corral.store.work_offer import end_work

__all__ = ["Sessions"]

_BUSY = ("running", "rescheduling")

_OWNER = Query(
    union_all(
        *(
            select(table.c.workspace_id, table.c.api_key_id).where(
                table.c.session_id == bindparam("of_session_id")
            )
            for table in (sessions, tombstones)
        )
    )
)

_NEEDS_BRAIN = select(sessions.c.needs_brain_since).where(
    sessions.c.session_id == bindparam("of_session_id")
)
_ARRIVED = select(inbox.c.arrival).where(inbox.c.session_id == bindparam("of_session_id")).limit(1)
_CHECKPOINT = select(checkpoints.c.session_id).where(checkpoints.c.session_id == bindparam("of_session_id"))
_UPDATE = update(sessions).where(sessions.c.session_id == bindparam("of_session_id"))
_WAKE = _UPDATE.values(needs_brain_since=func.coalesce(sessions.c.needs_brain_since, bindparam("since")))
_UPDATE_DETAILS = update(session_details).where(session_details.c.session_id == bindparam("of_session_id"))
_UPDATE_THREADS = update(threads).where(threads.c.session_id == bindparam("of_session_id"))
_UPDATE_THREAD_DETAILS = update(thread_details).where(
    thread_details.c.session_id == bindparam("of_session_id"),
    thread_details.c.thread_id == bindparam("of_thread_id"),
)


class Sessions:
    """`session.record.SessionStore`."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, *, ids: Ids | None = None) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._ids = ids or Ids()

    async def create(
        self,
        record: SessionRecord,
        *,
        initial: Sequence[Event] = (),
        copies: Sequence[FileCopy] = (),
        tokens: Sequence[SealedToken] = (),
    ) -> SessionRecord:
        entries: list[StoredEvent | InboxEntry] = []
        created = replace(record, status="running") if initial else record

        def body(connection: Connection) -> SessionRecord:
            copy_to_session(
                connection,
                copies,
                session_id=record.session_id,
                workspace_id=record.workspace_id,
                now=record.created_at,
            )
            _insert(connection, created)
            insert_tokens(connection, record.session_id, tokens)
            keep_skills(connection, created)
            entries[:] = store_inputs(
                connection,
                record,
                # Nothing to admit against: a new session has no past.
                [
                    Admitted(
                        event=event,
                        thread_id=record.primary_thread_id,
                        to="inbox",
                        wants_worker=is_self_hosted(record.environment),
                    )
                    for event in initial
                ],
                now=record.created_at,
                now_us=self._database.now_us(connection),
            )
            return replace(created, last_arrival=len(entries))

        def committed(_record: SessionRecord) -> None:
            if entries:
                self._bus.publish(Committed(session_id=record.session_id, entries=tuple(entries)))
                self._bus.wake(record.session_id)
                if is_self_hosted(record.environment):
                    self._bus.publish(Committed(session_id=topic(record.environment_id)))

        # What is copied is counted where others may count as well.
        return await self._database.write(body, locks=None if copies else (), committed=committed)

    async def owner_of(self, session_id: SessionId) -> SessionOwner | None:
        def body(connection: Connection) -> SessionOwner | None:
            row = _OWNER.first(connection, {"of_session_id": session_id})
            return None if row is None else SessionOwner(WorkspaceId(row.workspace_id), row.api_key_id)

        return await self._database.look(body)

    async def read(self, session_id: SessionId) -> SessionRecord:
        def body(connection: Connection) -> SessionRecord:
            record = read_record(connection, session_id)
            if record is None:
                raise not_found(connection, session_id)
            return record

        return await self._database.look(body)

    async def page(
        self,
        where: SessionFilter,
        *,
        descending: bool,
        limit: int,
        after: tuple[datetime, str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> SessionPage:
        return await self._database.read(
            lambda connection: session_page(
                connection, where, descending=descending, limit=limit, after=after, before=before
            )
        )

    async def update(self, session_id: SessionId, changes: SessionChanges) -> SessionRecord:
        resumes = False

        def change(connection: Connection, record: SessionRecord) -> list[Fact]:
            if record.archived_at is not None or record.status == "terminated":
                raise Conflict(f"Session {session_id} has ended and cannot be changed.")
            news = _apply(connection, record, changes, now=self._clock.now())
            if news is None:
                return []
            nonlocal resumes
            resumes = "budget" in news and is_paused(record)
            if resumes:
                since = {"of_session_id": session_id, "since": self._database.now_us(connection)}
                connection.execute(_WAKE, since)
            return [
                (
                    SessionUpdated(id=self._ids.event(), type=SessionUpdated.TYPE, **news),
                    record.primary_thread_id,
                    None,
                )
            ]

        changed = await self._change(session_id, change)
        if resumes:
            self._bus.wake(session_id)
        return changed

    async def archive(self, session_id: SessionId) -> SessionRecord:
        def change(connection: Connection, record: SessionRecord) -> list[Fact]:
            if record.archived_at is not None:
                return []
            of_session = {"of_session_id": session_id}
            has_inputs = connection.scalar(_ARRIVED, of_session) is not None
            needs_brain = connection.scalar(_NEEDS_BRAIN, of_session) is not None
            if record.status in _BUSY or has_inputs or needs_brain:
                raise InvalidRequest(
                    f"Session {session_id} is running or has unprocessed events, so it cannot be archived."
                    " Send a user.interrupt and wait until it is idle."
                )
            now = max(self._clock.now(), record.updated_at)
            forget_tokens(connection, session_id)
            if record.status == "terminated":  # it ended by itself: its last events are there already
                connection.execute(_UPDATE.values(archived_at=now), of_session)
                return []
            _terminate(connection, record, now)
            ends: list[Fact] = [
                (
                    SessionThreadStatusTerminated(
                        id=self._ids.event(),
                        type=SessionThreadStatusTerminated.TYPE,
                        session_thread_id=thread.thread_id,
                        agent_name=thread.agent["name"],
                    ),
                    thread.thread_id,
                    None,
                )
                for thread in record.threads
            ]
            last = SessionStatusTerminated(id=self._ids.event(), type=SessionStatusTerminated.TYPE)
            return [*ends, (last, record.primary_thread_id, None)]

        return await self._change(session_id, change)

    async def delete(self, session_id: SessionId) -> None:
        def body(connection: Connection) -> None:
            record = lock_record(connection, session_id)
            if record.status in _BUSY:
                raise InvalidRequest(
                    f"Session {session_id} is {record.status}, so it cannot be deleted. Send a"
                    " user.interrupt and wait until it is idle."
                )
            now = self._clock.now()
            delete_session_files(connection, session_id)
            for table in (inbox, events, sessions):  # details and threads go with their session
                connection.execute(delete(table).where(table.c.session_id == session_id))
            deleted_at = from_us(self._database.now_us(connection))  # all nodes forget by one clock
            old = deleted_at - timedelta(seconds=TOMBSTONE_SECONDS)
            connection.execute(delete(tombstones).where(tombstones.c.deleted_at < old))
            connection.execute(
                insert(tombstones),
                {
                    "session_id": session_id,
                    "deleted_at": deleted_at,
                    "workspace_id": record.workspace_id,
                    "api_key_id": record.api_key_id,
                },
            )
            # Its placement stays until the host has done the work: it says which host that is.
            queue_cleanup(connection, session_id, "workspace", now=now)
            if connection.scalar(_CHECKPOINT, {"of_session_id": session_id}) is not None:
                queue_cleanup(connection, session_id, "blobs", now=now)

        await self._database.write(
            body,
            checks_first=True,
            committed=lambda _: self._bus.publish(Deleted(session_id=session_id)),
        )

    async def _change(
        self, session_id: SessionId, change: Callable[[Connection, SessionRecord], list[Fact]]
    ) -> SessionRecord:
        """Apply `change` under the row lock, and append the facts it returns. It checks first."""
        stored: list[StoredEvent] = []

        def body(connection: Connection) -> SessionRecord:
            record = lock_record(connection, session_id)
            facts = change(connection, record)
            stored[:] = log_facts(connection, record, facts, now=self._clock.now())
            return _reread(connection, session_id)

        def committed(_record: SessionRecord) -> None:
            if stored:
                self._bus.publish(Committed(session_id=session_id, entries=tuple(stored)))

        return await self._database.write(body, locks=[session_id], checks_first=True, committed=committed)


def _reread(connection: Connection, session_id: SessionId) -> SessionRecord:
    record = read_record(connection, session_id)
    assert record is not None
    return record


def _insert(connection: Connection, record: SessionRecord) -> None:
    connection.execute(
        insert(sessions),
        {
            "session_id": record.session_id,
            "owner": None,
            "epoch": record.epoch,
            "lease_until": 0,
            "last_seq": record.last_seq,
            "last_arrival": record.last_arrival,
            "last_processed_at": record.created_at,
            "needs_brain_since": None,
            "status": record.status,
            "usage": record.usage,
            "active_seconds": record.active_seconds,
            "running_since": record.running_since,
            "blocked_on": list(record.blocked_on),
            "stop_reason": record.stop_reason,
            "requests_cost": record.requests_cost,
            "primary_thread_id": record.primary_thread_id,
            "agent_id": record.agent.get("id"),
            "agent_version": record.agent.get("version"),
            "environment_id": record.environment_id,
            "api_key_id": record.api_key_id,
            "workspace_id": record.workspace_id,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
            "archived_at": record.archived_at,
            "terminated_at": record.terminated_at,
        },
    )
    connection.execute(
        insert(session_details),
        {
            "session_id": record.session_id,
            "title": record.title,
            "metadata": record.metadata,
            "agent": record.agent,
            "environment": record.environment,
            "vault_ids": list(record.vault_ids) or None,
            "resources": stored_resources(record.resources),
            "budget": record.budget,
            "runtime_rate": record.runtime_rate,
            "skills": list(record.skills) or None,
        },
    )
    if store_ids := {
        resource.body["memory_store_id"] for resource in record.resources if resource.type == "memory_store"
    }:
        connection.execute(
            insert(session_memory_stores),
            [{"memory_store_id": each, "session_id": record.session_id} for each in sorted(store_ids)],
        )
    insert_threads(connection, [(record.session_id, thread) for thread in record.threads])


def _terminate(connection: Connection, record: SessionRecord, now: datetime) -> None:
    of_session = {"of_session_id": record.session_id}
    connection.execute(
        _UPDATE.values(
            status="terminated",
            archived_at=now,
            terminated_at=now,
            blocked_on=[],
            stop_reason=None,
            needs_brain_since=None,
        ),
        of_session,
    )
    connection.execute(_UPDATE_THREADS.values(status="terminated", updated_at=now), of_session)
    end_work(connection, record.session_id, now=now)
    queue_cleanup(connection, record.session_id, "sandbox", now=now)


def _apply(
    connection: Connection, record: SessionRecord, changes: SessionChanges, *, now: datetime
) -> dict[str, Json] | None:
    """Store what differs; returns the fields of `session.updated`, None if nothing does."""
    details: dict[str, Json] = {}
    news: dict[str, Json] = {}
    if "title" in changes.given and changes.title != record.title:
        details["title"] = news["title"] = changes.title
    if "metadata" in changes.given:
        metadata = merged(record.metadata, changes.metadata)
        if metadata != record.metadata:
            details["metadata"] = metadata
            if metadata:  # absent when cleared to empty
                news["metadata"] = metadata
    if "budget" in changes.given:
        changed_budget(record, changes.budget, at=now)
        if changes.budget != record.budget:
            details["budget"] = news["budget"] = changes.budget
    agent = _changed_agent(record.agent, changes)
    if agent != record.agent:
        if record.status != "idle":
            raise InvalidRequest(
                f"agent: its tools can be changed only while the session is idle; it is {record.status}."
                " Send a user.interrupt and wait until it is idle."
            )
        check_readable(record.skills, agent["tools"], where="agent.")
        check_web_networking(agent["tools"], record.environment)
        check_servers(agent["tools"], agent["mcp_servers"], where="agent.")
        check_mcp_networking(agent["mcp_servers"], record.environment)
        details["agent"] = news["agent"] = agent
        for thread in record.threads:
            if thread.thread_id == record.primary_thread_id:
                connection.execute(
                    _UPDATE_THREAD_DETAILS.values(agent=_changed_agent(thread.agent, changes)),
                    {"of_session_id": record.session_id, "of_thread_id": thread.thread_id},
                )
    if not details:
        return None
    connection.execute(_UPDATE_DETAILS.values(details), {"of_session_id": record.session_id})
    return news


def _changed_agent(agent: Mapping[str, Json], changes: SessionChanges) -> Mapping[str, Json]:
    changed = dict(agent)
    if "tools" in changes.given:
        changed["tools"] = list(changes.tools or ())
    if "mcp_servers" in changes.given:
        changed["mcp_servers"] = list(changes.mcp_servers or ())
    return changed
