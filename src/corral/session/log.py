"""The SessionLog port: the one door through which facts enter and leave a session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol

from corral.kernel.ids import EnvironmentId, EventId, SessionId, ThreadId
from corral.session.content import Json
from corral.session.events import Event
from corral.session.lease import Claim, Lease
from corral.session.record import SessionRecord, Status, ThreadRecord


class StoredEvent(NamedTuple):
    """A fact. `body` is the public JSON, sent as stored; `private` never leaves the brains. A tuple:
    a long log is a hundred thousand of them.

    arrival: the inbox number of an input that waited; None for everything else.
    answers: the tool-use event that this result settles; unique per session.
    """

    seq: int
    event_id: EventId
    type: str
    thread_id: ThreadId
    arrival: int | None
    body: bytes
    private: Mapping[str, Json] | None
    processed_at: datetime
    answers: EventId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxEntry:
    """An accepted input that no brain has taken yet; `body` has `processed_at: null`. `private` is for
    brains only, and moves to the event when it is taken."""

    arrival: int
    event_id: EventId
    type: str
    thread_id: ThreadId
    body: bytes
    private: Mapping[str, Json] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """An event to append. `processed_at` is proposed by the writer, who folds before it writes; the
    store refuses one that is not later than the last (see `SessionLog.append`)."""

    event: Event
    thread_id: ThreadId
    processed_at: datetime
    private: Mapping[str, Json] | None = None
    answers: EventId | None = None
    arrival: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """Columns that repeat the fold, as of the append that carries them. `threads`: those it changes."""

    status: Status
    usage: Mapping[str, Json]
    active_seconds: float
    running_since: datetime | None
    blocked_on: Sequence[EventId]
    needs_brain: bool
    threads: Sequence[ThreadRecord]
    stop_reason: str | None = None
    requests_cost: Decimal = Decimal(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Append:
    """One brain append.

    seen_seq, seen_arrival: the last seq and arrival that the writer has folded.
    consumes: event ids taken from the inbox; each is also among `events`, same id, with its arrival.
    releases: give the lease back in the same transaction.
    gets_on:  it holds a model's reply or a tool's result: what the session waited for has happened, so its
              failures are forgotten.
    work_for: the self-hosted environment of whose workers one has something to run: the session has a work
              item after this, see `session.work`.
    """

    session_id: SessionId
    lease: Lease | Claim
    seen_seq: int
    seen_arrival: int
    events: Sequence[NewEvent]
    consumes: Sequence[EventId] = ()
    derived: Derived
    releases: bool = False
    gets_on: bool = False
    work_for: EnvironmentId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Record, log after a position, and the whole inbox, read in one transaction."""

    record: SessionRecord
    events: Sequence[StoredEvent]
    inbox: Sequence[InboxEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFilter:
    """`GET .../events`. Times compare with `processed_at`; inbox entries match no time filter."""

    types: Sequence[str] = ()
    thread_id: ThreadId | None = None
    created_gt: datetime | None = None
    created_gte: datetime | None = None
    created_lt: datetime | None = None
    created_lte: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a reader stands: the last seq and arrival it was given. The SSE cursor is `seq.arrival`."""

    seq: int = 0
    arrival: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EventPage:
    """Log entries, then inbox entries (asc; reversed for desc), and where the next page begins."""

    events: Sequence[StoredEvent | InboxEntry]
    next_position: Position | None


class SessionLog(Protocol):
    """Append-only, gap-free, fenced. All methods raise NotFound for an unknown or deleted session and
    StoreUnavailable (retryable; nothing written unless it says so)."""

    async def append(self, append: Append) -> Sequence[StoredEvent]:
        """Write a brain's events and derived columns in one transaction.

        Shape:  1..EVENTS_PER_APPEND_MAX events; seqs are consecutive from seen_seq + 1.
        Token:  a Lease whose epoch is current, or a Claim of a free session.
        Time:   processed_at must increase strictly from the last stored one.
        Repeat: safe; if all ids are present with equal bodies, their stored form is returned.
        Raises: LeaseLost (stop for ever; also when the session has ended), Stale (seq or arrival moved, a
                consumed input or an answer is already there: fold the news, decide again). Nothing is
                written in either case.
        """

    async def close_turn(self, lease: Lease, *, message: str, now: datetime) -> Sequence[StoredEvent]:
        """The last resort for a session that no brain survives folding: end its turn from its record alone.

        Open requests and calls are closed, inputs become moot, `message` is its session.error; the session
        is idle and the lease given back. Returns what was appended. Raises LeaseLost.
        """

    async def accept(
        self, session_id: SessionId, inputs: Sequence[Event], *, now: datetime
    ) -> Sequence[StoredEvent | InboxEntry]:
        """Accept client-sent events, all or nothing, after `session.inbox.admit` under the row lock.

        Returns what was stored, in order; an exact duplicate of an earlier result returns that one.
        Sets needs_brain. Raises InvalidRequest, Conflict.
        """

    async def snapshot(self, session_id: SessionId, *, after_seq: int = 0) -> Snapshot:
        """What a brain folds: private payloads included."""

    async def page(
        self,
        session_id: SessionId,
        where: EventFilter,
        *,
        descending: bool,
        limit: int,
        after: Position | None = None,
    ) -> EventPage:
        """One page of the log, then the inbox, read in one snapshot."""

    async def tail(self, session_id: SessionId, after: Position, *, limit: int) -> EventPage:
        """What a stream at `after` has not seen: log entries with a higher seq and inbox entries with a
        higher arrival, merged so that an input's echo precedes its processed form: the echo of an
        arrival above `after.arrival` that was processed meanwhile is rebuilt from the log."""

    async def ends(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, Position]:
        """Last seq and last arrival of each of up to TAIL_LOOK_SESSIONS_MAX sessions, in one cheap read:
        whether a stream is behind. Unknown and deleted sessions are left out."""
