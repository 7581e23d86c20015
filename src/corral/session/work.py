"""Work of self-hosted environments: an offer to their workers to run a session's tools.

A session has at most one work item that has not ended. An item is made in the transaction that gives a
worker something to do (a message is accepted, a call may run), and holds nothing that the session's log
does not: whoever has it reads the log. Time is the database's; nobody has to be alive for a lease to end.

    queued ──poll──> queued, claimed ──ack──> starting ──heartbeat──> active ──stop──> stopping
      ^                     │                    │                      │                 │
      └── not acknowledged ─┴─────── the lease has ended ───────────────┘      by force, or in time
                                                                                          v
                                                                                       stopped

What has run out is what it has become, for whoever looks (`shown`); the next claim writes it down. A claim
makes a new token, so who held the item before can do nothing for the session any more.

When an item is stopped while calls are left to run, these are offered anew: at once if its worker got on
with the session, else after a pause that grows, which `user.interrupt` ends; and not at all if an operator
has stopped it, until the session gets a message or an interrupt. Source: API docs, self-hosted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from corral.kernel.cursor import Page
from corral.kernel.ids import EnvironmentId, SessionId, WorkId, WorkspaceId
from corral.kernel.limits import (
    WORK_LEASE_SECONDS_MAX,
    WORK_LEASE_SECONDS_MIN,
    WORK_RETRY_SECONDS,
    WORK_RETRY_SECONDS_MAX,
)

__all__ = [
    "NO_HEARTBEAT",
    "Beat",
    "Claimed",
    "Holder",
    "Queue",
    "QueueStats",
    "Work",
    "WorkQueue",
    "WorkState",
    "lease_seconds",
    "retry_seconds",
    "shown",
    "topic",
]

WorkState = Literal["queued", "starting", "active", "stopping", "stopped"]

NO_HEARTBEAT = "NO_HEARTBEAT"
"""What the first heartbeat of a claim expects."""


class Queue(NamedTuple):
    """An environment's queue, as somebody in that workspace names it."""

    workspace_id: WorkspaceId
    environment_id: EnvironmentId


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A work item.

    free_from:  until then it is somebody's: not offered yet, leased, or its stopping worker is waited for.
    claimed_at: None: nobody has claimed it since it was queued.
    """

    work_id: WorkId
    environment_id: EnvironmentId
    session_id: SessionId
    state: WorkState
    ttl_seconds: int
    free_from: datetime
    created_at: datetime
    queued_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    claimed_at: datetime | None = None
    acknowledged_at: datetime | None = None
    started_at: datetime | None = None
    latest_heartbeat_at: datetime | None = None
    stop_requested_at: datetime | None = None
    stopped_at: datetime | None = None


def shown(work: Work, *, now: datetime) -> Work:
    """What the item is now: a lease that has ended puts it back into the queue, a stop that nobody confirms
    is one in time."""
    if work.free_from > now:
        return work
    if work.state in ("starting", "active"):
        return requeued(work)
    if work.state == "stopping":
        return replace(work, state="stopped", stopped_at=work.free_from)
    return work


def requeued(work: Work) -> Work:
    """Nobody's again, since it was free."""
    return replace(
        work,
        state="queued",
        queued_at=work.free_from,
        claimed_at=None,
        acknowledged_at=None,
        started_at=None,
        latest_heartbeat_at=None,
        stop_requested_at=None,
    )


def lease_seconds(desired: int | None, *, default: int) -> int:
    """What a worker gets that asks for `desired`. Out of bounds is the nearest bound."""
    if desired is None:
        return default
    return min(max(desired, WORK_LEASE_SECONDS_MIN), WORK_LEASE_SECONDS_MAX)


def retry_seconds(failures: int) -> float:
    """How long the work waits after so many (1..) workers in a row have given it up without getting on."""
    return float(min(WORK_RETRY_SECONDS * 2.0 ** min(failures - 1, 30), WORK_RETRY_SECONDS_MAX))


def topic(environment_id: EnvironmentId) -> SessionId:
    """Where the bus tells that there may be work: ids of all kinds differ, so it is nobody else's."""
    return SessionId(environment_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """`token`: of this claim; it is kept only as a hash."""

    work: Work
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """`work` after the heartbeat; whether that extended its lease. A refused one changes nothing."""

    work: Work
    lease_extended: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Whom a sessions token is of.

    is_current: of the item's last claim; else somebody else has it, or had.
    holds:      and its lease, or its time to stop, has not ended.
    """

    work_id: WorkId
    workspace_id: WorkspaceId
    environment_id: EnvironmentId
    session_id: SessionId
    is_current: bool
    holds: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStats:
    """depth: items to be had. pending: claimed, and not acknowledged yet. oldest_queued_at: of both."""

    depth: int
    pending: int
    oldest_queued_at: datetime | None
    workers_polling: int


class WorkQueue(Protocol):
    """Each method is one transaction. Items are returned as they are shown now.

    Raises NotFound for an item that is not of that queue.
    """

    async def claim(self, queue: Queue, *, reclaim_seconds: float) -> Claimed | None:
        """The item that is free for longest, of which no other claim is under way; None if there is none.

        reclaim_seconds: a claim that was not acknowledged for so long is nobody's.
        """

    async def note_worker(self, queue: Queue, worker_id: str) -> None:
        """This worker polls."""

    async def acknowledge(self, queue: Queue, work_id: WorkId) -> Work:
        """Repeat: safe. Raises Conflict: nobody has claimed it, or it is to stop."""

    async def beat(
        self,
        queue: Queue,
        work_id: WorkId,
        *,
        expected: str | None,
        desired_seconds: int | None,
        is_repeat: bool,
    ) -> Beat:
        """Extend the lease. Raises HeartbeatRefused.

        expected:  the last heartbeat as it was answered, or NO_HEARTBEAT; not compared while it stops; None
                   is not compared.
        is_repeat: the client sends this again by itself, because it got no answer.
        """

    async def stop(self, queue: Queue, work_id: WorkId, *, force: bool, by_worker: bool) -> Work:
        """Ask its worker to stop, or (`force`) take it to have. An item that nobody has stops at once.

        Raises Conflict if it has stopped.
        """

    async def read(self, queue: Queue, work_id: WorkId) -> Work: ...

    async def update(
        self,
        queue: Queue,
        work_id: WorkId,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> Work:
        """Its metadata. Raises what `change` raises."""

    async def page(self, queue: Queue, *, limit: int, cursor: str | None) -> Page[Work]:
        """Newest created first. Raises InvalidRequest for a cursor that is not of this list."""

    async def stats(self, queue: Queue) -> QueueStats: ...

    async def holder(self, token_sha256: bytes) -> Holder | None:
        """Whose token this is, of an item's last two claims."""
