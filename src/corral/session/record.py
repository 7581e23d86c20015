"""The session record: what `GET /v1/sessions/{id}` shows, and the port that keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol

from corral.catalog.repositories import SealedToken
from corral.kernel.ids import DEFAULT_WORKSPACE, EnvironmentId, SessionId, ThreadId, VaultId, WorkspaceId
from corral.session.content import Json
from corral.session.events import Event
from corral.session.resources import FileCopy, Resource

Status = Literal["idle", "running", "rescheduling", "terminated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadRecord:
    """One thread, as on the wire. `stats` and `usage` are null before the first transition."""

    thread_id: ThreadId
    parent_thread_id: ThreadId | None = None
    agent: Mapping[str, Json]
    status: Status = "idle"
    usage: Mapping[str, Json] | None = None
    active_seconds: float = 0.0
    running_since: datetime | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """A session without its log.

    agent:       resolved snapshot, post-override, as the wire shows it.
    environment: the environment's config as it was at creation.
    resources:   in the order in which they were added.
    vault_ids:   in the order in which they are asked for a credential; fixed at creation.
    skills:      of the agent, with what brains need of each (`catalog.skills.attached`); fixed at creation.
    usage:       wire `usage` as of the last append, without the running time still open.
    blocked_on:  ids that the session waits for, [] unless idle with requires_action.
    stop_reason: type of the last idle's, None while it is not idle.
    budget:      wire `budget`; None: there is none, or it was removed.
    requests_cost: list cost of its model requests, in micro-cents; None for sessions that nobody
                 appended to since this column is there.
    runtime_rate: what an hour of running cost when it was created, in micro-cents; None for sessions older
                 than this column, which are charged what it costs now.
    last_seq, last_arrival: ends of log and inbox.
    failures:    brains that died at it since it last got on; see `lease.LeaseStore`.
    api_key_id:  the key that created it; None for sessions older than this column.
    workspace_id: that it belongs to; never changes.
    """

    session_id: SessionId
    primary_thread_id: ThreadId
    title: str | None
    metadata: Mapping[str, str]
    agent: Mapping[str, Json]
    environment_id: EnvironmentId
    environment: Mapping[str, Json]
    status: Status
    usage: Mapping[str, Json]
    active_seconds: float
    running_since: datetime | None
    blocked_on: Sequence[str]
    last_seq: int
    last_arrival: int
    epoch: int
    failures: int = 0
    stop_reason: str | None = None
    budget: Mapping[str, Json] | None = None
    requests_cost: Decimal | None = None
    runtime_rate: Decimal | None = None
    api_key_id: str | None = None
    workspace_id: WorkspaceId = DEFAULT_WORKSPACE
    vault_ids: Sequence[VaultId] = ()
    resources: Sequence[Resource] = ()
    skills: Sequence[Mapping[str, Json]] = ()
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    terminated_at: datetime | None
    threads: Sequence[ThreadRecord] = field(default_factory=tuple)


class SessionOwner(NamedTuple):
    """The workspace that a session belongs to, and the key that created it."""

    workspace_id: WorkspaceId
    api_key_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFilter:
    """`GET /v1/sessions`. Times compare with `created_at`; empty `statuses` means any."""

    workspace_id: WorkspaceId
    api_key_id: str | None = None
    agent_id: str | None = None
    agent_version: int | None = None
    memory_store_id: str | None = None
    statuses: Sequence[Status] = ()
    created_gt: datetime | None = None
    created_gte: datetime | None = None
    created_lt: datetime | None = None
    created_lte: datetime | None = None
    include_archived: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionPage:
    """`sessions` in list order; `has_more` and `has_previous` beyond either end."""

    sessions: Sequence[SessionRecord]
    has_more: bool
    has_previous: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionChanges:
    """What `POST /v1/sessions/{id}` sets; a field not in `given` is kept."""

    given: frozenset[str]
    title: str | None = None
    metadata: Mapping[str, str | None] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Json]] | None = None
    mcp_servers: Sequence[Mapping[str, Json]] | None = None
    budget: Mapping[str, Json] | None = None


class SessionStore(Protocol):
    """Keeps session records. Each method is one transaction."""

    async def create(
        self,
        record: SessionRecord,
        *,
        initial: Sequence[Event] = (),
        copies: Sequence[FileCopy] = (),
        tokens: Sequence[SealedToken] = (),
    ) -> SessionRecord:
        """Store a session, its initial inputs, its copies of files of its workspace and the tokens of its
        repositories, all or nothing.

        Raises NotFound: a file is gone; VaultUnavailable: the key of a token is no longer in use.

        With initial events the session is created as `running` (the row's status; its
        `session.status_running` event is the brain's) and needs a brain. Repeat: an existing id is a
        bug. Also stores the primary thread from `record.threads`.
        """

    async def owner_of(self, session_id: SessionId) -> SessionOwner | None:
        """Whose it is, or, while its tombstone stands, was; None if there is none. Never changes. Whoever
        asks for something by a session's id (all other methods, and the log's) has looked here before."""

    async def read(self, session_id: SessionId) -> SessionRecord:
        """With its threads. Raises NotFound, also for a deleted session."""

    async def page(
        self,
        where: SessionFilter,
        *,
        descending: bool,
        limit: int,
        after: tuple[datetime, str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> SessionPage:
        """One page in (created_at, id) order, after or before a position, read in one snapshot."""

    async def update(self, session_id: SessionId, changes: SessionChanges) -> SessionRecord:
        """Apply changes under the row lock; an effective change appends `session.updated` holding only
        what changed (API docs, sessions "Update"). A changed budget wakes a session that waits for it.
        Raises NotFound, Conflict (archived), InvalidRequest (tools while not idle; metadata over its
        limits after the merge; a budget that is new, or not above what is consumed)."""

    async def archive(self, session_id: SessionId) -> SessionRecord:
        """End the session: appends thread_status_terminated and status_terminated, queues the clean-up of
        its sandbox. Repeat: safe. Raises InvalidRequest while it runs or has unprocessed inputs, also
        those that wait behind a requires_action."""

    async def delete(self, session_id: SessionId) -> None:
        """Remove record, log, inbox and the files that belong to it; leave a tombstone for 24 h and
        clean-up work for the hands.
        Tails learn of it through the bus and the tombstone. Raises NotFound, InvalidRequest while it
        runs."""
