"""The session log as a few lists in memory: what a store must do, said as plainly as possible.

Nothing here is durable, concurrent or fast. Tests run the same operations on a store and on this, and
compare after each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from corral.kernel.clock import Clock
from corral.kernel.errors import InvalidRequest, LeaseLost, NotFound, Stale
from corral.kernel.ids import EventId, Ids, SessionId
from corral.kernel.limits import LEASE_TTL_SECONDS, SUSPECT_TURNS
from corral.session.budget import Budget, changed_budget, is_paused
from corral.session.closing import OpenCall, Remains, closing
from corral.session.events import (
    AgentCustomToolUse,
    AgentMcpToolUse,
    AgentToolUse,
    Event,
    SessionUpdated,
    SpanModelRequestEnd,
    SpanModelRequestStart,
    UserToolConfirmation,
    parse,
)
from corral.session.inbox import View, admit, is_self_hosted, referenced
from corral.session.lease import Claim, Lease, session_backoff_seconds
from corral.session.log import Append, InboxEntry, Snapshot, StoredEvent
from corral.session.record import SessionRecord, ThreadRecord

_TTL = timedelta(seconds=LEASE_TTL_SECONDS)


def _backoff(failures: int) -> timedelta:
    return timedelta(seconds=session_backoff_seconds(failures))


def _changed(threads: Sequence[ThreadRecord], changes: Sequence[ThreadRecord]) -> list[ThreadRecord]:
    """`threads` with what an append changes of them, and those that begin with it."""
    by_id = {thread.thread_id: thread for thread in (*threads, *changes)}
    return list(by_id.values())


@dataclass(kw_only=True)
class OracleSession:
    """One session; `record` without the columns that are kept beside it."""

    record: SessionRecord
    log: list[StoredEvent] = field(default_factory=list)
    inbox: list[InboxEntry] = field(default_factory=list)
    last_arrival: int = 0
    epoch: int = 0
    owner: str | None = None
    lease_until: datetime | None = None
    needs_brain_since: datetime | None = None
    failures: int = 0
    not_before: datetime | None = None

    @property
    def last_processed_at(self) -> datetime:
        return self.log[-1].processed_at if self.log else self.record.created_at


class Oracle:
    """All sessions. Same names, arguments and errors as the ports, but not async."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sessions: dict[SessionId, OracleSession] = {}

    def create(self, record: SessionRecord, *, initial: Sequence[Event] = ()) -> None:
        session = self.sessions[record.session_id] = OracleSession(record=record)
        if initial:
            session.record = replace(record, status="running")
            session.needs_brain_since = self._clock.now()
        for event in initial:
            self._queue(session, event)

    def accept(self, session_id: SessionId, inputs: Sequence[Event], *, now: datetime) -> list[EventId]:
        """The ids of what is returned, in order."""
        session = self._session(session_id)
        named: set[str] = set(referenced(inputs))
        if is_self_hosted(session.record.environment):
            named |= set(session.record.blocked_on)
        entries: list[StoredEvent | InboxEntry] = [*session.log, *session.inbox]
        confirmations = [parse(entry.body) for entry in entries if entry.type == UserToolConfirmation.TYPE]
        view = View(
            record=replace(session.record, last_seq=len(session.log), last_arrival=session.last_arrival),
            inbox=tuple(session.inbox),
            now=now,
            tool_uses={event.event_id: event for event in session.log if event.event_id in named},
            answers={event.answers: event for event in session.log if event.answers in named},
            confirmations={
                event.tool_use_id: event.result
                for event in confirmations
                if isinstance(event, UserToolConfirmation) and event.tool_use_id in named
            },
        )
        returned = []
        for item in admit(view, inputs):
            if item.duplicate_of:
                returned.append(item.duplicate_of.event_id)
            elif item.to != "nowhere":
                returned.append(item.event.id)
            if item.to == "inbox":
                self._queue(session, item.event)
            elif item.to == "log":
                processed_at = max(now, session.last_processed_at + timedelta(microseconds=1))
                session.log.append(
                    StoredEvent(
                        seq=len(session.log) + 1,
                        event_id=item.event.id,
                        type=item.event.type,
                        thread_id=item.thread_id,
                        arrival=None,
                        body=item.event.body(processed_at=processed_at),
                        private=None,
                        processed_at=processed_at,
                        answers=item.answers,
                    )
                )
            if item.needs_brain:
                session.needs_brain_since = session.needs_brain_since or self._clock.now()
        return returned

    def change_budget(self, session_id: SessionId, budget: Budget | None, *, now: datetime) -> None:
        """That part of `SessionStore.update`."""
        session = self._session(session_id)
        changed_budget(session.record, budget, at=now)
        if budget == session.record.budget:
            return
        processed_at = max(now, session.last_processed_at + timedelta(microseconds=1))
        event = SessionUpdated(id=Ids().event(), budget=budget)
        session.log.append(
            StoredEvent(
                seq=len(session.log) + 1,
                event_id=event.id,
                type=event.type,
                thread_id=session.record.primary_thread_id,
                arrival=None,
                body=event.body(processed_at=processed_at),
                private=None,
                processed_at=processed_at,
            )
        )
        if is_paused(session.record):
            session.needs_brain_since = session.needs_brain_since or self._clock.now()
        session.record = replace(session.record, budget=budget)

    def append(self, append: Append) -> list[EventId]:
        session = self._session(append.session_id)
        ids = [new.event.id for new in append.events]
        try:
            self._check(session, append)
        except (LeaseLost, Stale):
            bodies = {event.event_id: event.body for event in session.log}
            if all(
                bodies.get(new.event.id) == new.event.body(processed_at=new.processed_at)
                for new in append.events
            ):
                return ids
            raise
        for seq, new in enumerate(append.events, start=len(session.log) + 1):
            session.log.append(
                StoredEvent(
                    seq=seq,
                    event_id=new.event.id,
                    type=new.event.type,
                    thread_id=new.thread_id,
                    arrival=new.arrival,
                    body=new.event.body(processed_at=new.processed_at),
                    private=new.private,
                    processed_at=new.processed_at,
                    answers=new.answers,
                )
            )
        session.inbox = [entry for entry in session.inbox if entry.event_id not in append.consumes]
        if isinstance(append.lease, Claim):
            self._grant(session, append.lease.owner)
        if append.releases:
            session.owner = None
        if append.gets_on or append.releases:
            session.failures, session.not_before = 0, None
        needed = session.needs_brain_since or self._clock.now()
        ends = append.derived.status == "terminated"
        session.needs_brain_since = needed if append.derived.needs_brain and not ends else None
        derived = append.derived
        session.record = replace(
            session.record,
            status=derived.status,
            usage=derived.usage,
            active_seconds=derived.active_seconds,
            running_since=derived.running_since,
            blocked_on=derived.blocked_on,
            stop_reason=derived.stop_reason,
            requests_cost=derived.requests_cost,
            threads=_changed(session.record.threads, derived.threads),
        )
        return ids

    def close_turn(self, lease: Lease, *, message: str, now: datetime) -> list[StoredEvent]:
        session = self._session(lease.session_id)
        if not self._holds(lease):
            raise LeaseLost
        answered = {event.answers for event in session.log}
        uses = (AgentToolUse.TYPE, AgentMcpToolUse.TYPE, AgentCustomToolUse.TYPE)
        spans = [
            event
            for event in session.log
            if event.type in (SpanModelRequestStart.TYPE, SpanModelRequestEnd.TYPE)
        ]
        is_open = bool(spans) and spans[-1].type == SpanModelRequestStart.TYPE
        remains = Remains(
            record=self.snapshot(lease.session_id).record,
            requests=[(spans[-1].event_id, spans[-1].thread_id)] if is_open else [],
            calls=[
                OpenCall(
                    call_id=event.event_id,
                    thread_id=event.thread_id,
                    is_mcp=event.type == AgentMcpToolUse.TYPE,
                )
                for event in session.log
                if event.type in uses and event.event_id not in answered
            ],
            inbox=session.inbox,
        )
        stored = closing(remains, message=message, ids=Ids(), now=now, last_at=session.last_processed_at)
        session.log += stored
        session.inbox = []
        session.needs_brain_since = None
        threads = [replace(thread, status="idle") for thread in session.record.threads]
        session.record = replace(
            session.record,
            status="idle",
            running_since=None,
            blocked_on=[],
            stop_reason="retries_exhausted",
            threads=threads,
        )
        self._rested(lease)
        return stored

    def _check(self, session: OracleSession, append: Append) -> None:
        lease = append.lease
        if session.record.status == "terminated":
            raise LeaseLost
        if isinstance(lease, Claim):
            if session.epoch != lease.epoch - 1 or not self._is_free(session):
                raise LeaseLost
        elif (session.epoch, session.owner) != (lease.epoch, lease.owner):
            raise LeaseLost
        if (len(session.log), session.last_arrival) != (append.seen_seq, append.seen_arrival):
            raise Stale
        answered = {event.answers for event in session.log if event.answers is not None}
        if any(new.answers in answered for new in append.events):
            raise Stale
        if not set(append.consumes) <= {entry.event_id for entry in session.inbox}:
            raise Stale
        if {new.event.id for new in append.events} & {event.event_id for event in session.log}:
            raise Stale

    def claim(
        self, *, owner: str, limit: int, session_ids: Sequence[SessionId] | None = None
    ) -> list[Lease]:
        chosen = self.waiting() if session_ids is None else session_ids
        chosen = [session_id for session_id in chosen if session_id in self.sessions]
        free = [session_id for session_id in chosen if self._is_free(self.sessions[session_id])][:limit]
        for session_id in free:
            self._grant(self.sessions[session_id], owner)
        return [
            Lease(
                session_id=session_id,
                owner=owner,
                epoch=self.sessions[session_id].epoch,
                failures=self.sessions[session_id].failures,
            )
            for session_id in free
        ]

    def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        held = [lease for lease in leases if self._holds(lease)]
        for lease in held:
            self.sessions[lease.session_id].lease_until = self._clock.now() + _TTL
        return held

    def release(self, leases: Sequence[Lease], *, pause_seconds: float = 0.0) -> None:
        for lease in leases:
            if self._holds(lease):
                session = self.sessions[lease.session_id]
                pause = timedelta(seconds=pause_seconds)
                session.owner, session.not_before = None, self._clock.now() + pause if pause else None

    def _rested(self, lease: Lease) -> None:
        self.release([lease])
        self.sessions[lease.session_id].failures = 0

    def rest(self, lease: Lease, *, seen_seq: int, seen_arrival: int) -> None:
        if self._holds(lease):
            session = self.sessions[lease.session_id]
            if (len(session.log), session.last_arrival) == (seen_seq, seen_arrival):
                session.needs_brain_since = None
            self._rested(lease)

    def fail(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if self._holds(lease):
                self._fail(self.sessions[lease.session_id])

    def end(self, *, owner_prefix: str, except_owner: str) -> list[SessionId]:
        ended = [
            session
            for session in sorted(self.sessions.values(), key=lambda each: each.record.session_id)
            if session.owner and session.owner.startswith(owner_prefix) and session.owner != except_owner
        ]
        for session in ended:
            self._fail(session)
        return [session.record.session_id for session in ended if self._is_free(session)]

    def waiting(self) -> list[SessionId]:
        needing = sorted(
            (session.needs_brain_since, session_id)
            for session_id, session in self.sessions.items()
            if session.needs_brain_since is not None and self._is_free(session)
        )
        turns: dict[tuple[str | None, int], int] = {}
        in_turn = []
        for since, session_id in needing:
            failures = self.sessions[session_id].failures
            alike = self.sessions[session_id].record.api_key_id, failures
            turns[alike] = turns.get(alike, 0) + 1
            turn = turns[alike] + SUSPECT_TURNS * failures
            in_turn.append((turn, since, session_id))
        return [session_id for _, _, session_id in sorted(in_turn)]

    def failures(self, session_ids: Sequence[SessionId]) -> dict[SessionId, int]:
        counts = {
            each: self._failures(self.sessions[each]) for each in session_ids if each in self.sessions
        }
        return {session_id: count for session_id, count in counts.items() if count}

    def archive(self, session_id: SessionId) -> list[str]:
        """The types of the events that it appends."""
        session = self._session(session_id)
        if session.record.archived_at is not None:
            return []
        runs = session.record.status in ("running", "rescheduling")
        if runs or session.inbox or session.needs_brain_since is not None:
            raise InvalidRequest("runs")
        had_ended = session.record.status == "terminated"
        session.record = replace(session.record, status="terminated", archived_at=self._clock.now())
        return [] if had_ended else ["session.thread_status_terminated", "session.status_terminated"]

    def delete(self, session_id: SessionId) -> None:
        if self._session(session_id).record.status in ("running", "rescheduling"):
            raise InvalidRequest("runs")
        del self.sessions[session_id]

    def snapshot(self, session_id: SessionId) -> Snapshot:
        session = self._session(session_id)
        record = replace(
            session.record,
            last_seq=len(session.log),
            last_arrival=session.last_arrival,
            epoch=session.epoch,
            failures=session.failures,
        )
        return Snapshot(record=record, events=tuple(session.log), inbox=tuple(session.inbox))

    def _session(self, session_id: SessionId) -> OracleSession:
        if session_id not in self.sessions:
            raise NotFound(session_id)
        return self.sessions[session_id]

    def _queue(self, session: OracleSession, event: Event) -> None:
        session.last_arrival += 1
        session.inbox.append(
            InboxEntry(
                arrival=session.last_arrival,
                event_id=event.id,
                type=event.type,
                thread_id=session.record.primary_thread_id,
                body=event.body(processed_at=None),
            )
        )

    def _grant(self, session: OracleSession, owner: str) -> None:
        session.failures = self._failures(session)
        session.owner = owner
        session.epoch += 1
        session.lease_until = self._clock.now() + _TTL

    def _fail(self, session: OracleSession) -> None:
        session.owner = None
        session.failures += 1
        session.not_before = self._clock.now() + _backoff(session.failures)

    def _is_free(self, session: OracleSession) -> bool:
        if session.owner is None:
            return session.not_before is None or session.not_before <= self._clock.now()
        assert session.lease_until is not None
        return session.lease_until + _backoff(session.failures + 1) <= self._clock.now()

    def _failures(self, session: OracleSession) -> int:
        """With the lease that nobody gave back, once it may be claimed."""
        return session.failures + (session.owner is not None and self._is_free(session))

    def _holds(self, lease: Lease) -> bool:
        session = self.sessions.get(lease.session_id)
        return session is not None and (session.owner, session.epoch) == (lease.owner, lease.epoch)
