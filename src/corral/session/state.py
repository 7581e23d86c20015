"""A session as its log tells it: threads, conversations, and what is still open. `fold` changes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from corral.catalog.mcp.servers import uses_mcp
from corral.catalog.memory.attach import memory_note
from corral.catalog.toolset import offers
from corral.kernel.ids import EnvironmentId, EventId, SessionId, ThreadId, VaultId
from corral.session import events as ev
from corral.session.budget import BUDGET_REACHED, Budget
from corral.session.call import Placement
from corral.session.content import Json
from corral.session.conversation import Entry, entry_weight
from corral.session.record import SessionRecord, Status, ThreadRecord
from corral.session.tokens import Tokens


@dataclass(kw_only=True, slots=True)
class PendingCall:
    """A tool use without a result. `epoch` and `placement`: who dispatched it, and where to.

    is_remote: a worker of the session's self-hosted environment runs it, and sends a user.tool_result.
    mcp_server: whose tool it is; None for all others.
    """

    call_id: EventId
    thread_id: ThreadId
    name: str
    input: Mapping[str, Json]
    is_custom: bool
    permission: Literal["allow", "ask", "deny"]
    model_tool_use_id: str
    placement: Placement | None
    epoch: int
    evaluation: Mapping[str, Json] | None = None
    confirmation: Literal["allow", "deny"] | None = None
    deny_message: str | None = None
    is_remote: bool = False
    mcp_server: str | None = None

    @property
    def own_tool(self) -> str:
        """The built-in tool that is called; "" for what only has the name of one."""
        return "" if self.is_custom or self.mcp_server is not None else self.name

    @property
    def awaits_client(self) -> bool:
        return self.is_custom or self.awaits_worker or self.awaits_confirmation

    @property
    def awaits_confirmation(self) -> bool:
        return self.permission == "ask" and self.confirmation is None

    @property
    def awaits_worker(self) -> bool:
        """A worker may run it now; while it also awaits a confirmation, nobody may."""
        is_refused = self.permission == "deny" or self.confirmation == "deny"
        return self.is_remote and not self.awaits_confirmation and not is_refused


@dataclass(kw_only=True, slots=True)
class Thread:
    """One thread of a session, folded.

    skills:      of its agent, as the record of its session has them, and then of repositories.
    seeks_skills: its repositories may bring some, and no request has settled yet which.
    is_told_later: of these; its first request was made without.
    mcp:         by name of an MCP server, `{"url", "tools"}`: what it listed there last.
    seeks_tools: the session went running since, and no request has settled yet what they list now.
    wants_model: the conversation ends with something that the model has not answered.
    weight:      of all entries, as `conversation.weight` counts.
    measured_tokens, measured_weight: what the provider counted, reply included, when the entries weighed
                 so much; 0 if they were made shorter since, or the system prompt longer.
    request:     a model request was started and has not ended; made under `request_epoch`.
    compacts:    that request asks for a summary; what is to become of the conversation then.
    compactions: summaries asked for since the model last said or called something.
    overflows:   requests since then that did not fit its window; overflow: what was said of the last one,
                 if nothing was made shorter since.
    failures:    failed attempts since the last reply; retry_after_seconds as the last one asked for.
    refusals:    requests since the last reply whose content the provider refused for good.
    rounds:      model replies since the turn began. A turn goes on while it waits for the client.
    tokens_before: of all earlier turns. worked_seconds: of this turn, without the time since working_since.
    tool_ids:    model's tool-use id by event id, for results still to come.
    memory_note: what its system prompt says of the session's memory stores, which are fixed at creation.
    """

    thread_id: ThreadId
    parent_thread_id: ThreadId | None
    agent: Mapping[str, Json]
    skills: tuple[Mapping[str, Json], ...] = ()
    seeks_skills: bool = False
    is_told_later: bool = False
    mcp: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    seeks_tools: bool = False
    created_at: datetime
    memory_note: str | None = None
    status: Status = "idle"
    entries: list[Entry] = field(default_factory=list)
    weight: int = 0
    measured_tokens: int = 0
    measured_weight: int = 0
    wants_model: bool = False
    request: EventId | None = None
    request_epoch: int = 0
    compacts: Mapping[str, Json] | None = None
    compactions: int = 0
    overflows: int = 0
    overflow: str | None = None
    calls: dict[EventId, PendingCall] = field(default_factory=dict)
    failures: int = 0
    retry_after_seconds: float | None = None
    refusals: int = 0
    rounds: int = 0
    tokens_before: int = 0
    worked_seconds: float = 0.0
    working_since: datetime | None = None
    stop_reason: Mapping[str, Json] | None = None
    reply_stop_reason: str | None = None
    reply_stop_details: Mapping[str, Json] | None = None
    tokens: Tokens = field(default_factory=Tokens)
    has_been_idle: bool = False
    active_seconds: float = 0.0
    running_since: datetime | None = None
    updated_at: datetime | None = None

    def add(self, entry: Entry) -> None:
        """Something more was said."""
        self.entries.append(entry)
        self.weight += entry_weight(entry)

    def shorten(self, entries: list[Entry]) -> None:
        """The conversation is these entries from now on."""
        self.entries = entries
        self.weight = sum(map(entry_weight, entries))
        self.measured_tokens = self.measured_weight = 0
        self.overflow = None

    @property
    def seeks(self) -> bool:
        """Whether something is looked up before its next request: tools of MCP servers may change at any
        time."""
        return self.seeks_skills or uses_mcp(self.agent)

    @property
    def model(self) -> str:
        return str(self.agent["model"]["id"])

    @property
    def turn_tokens(self) -> int:
        """Tokens of this turn's requests."""
        return self.tokens.total - self.tokens_before

    def turn_seconds(self, now: datetime) -> float:
        """How long this turn has worked: waiting for the client does not count."""
        if self.working_since is None:
            return self.worked_seconds
        return self.worked_seconds + (now - self.working_since).total_seconds()

    @property
    def is_paused(self) -> bool:
        """The reply ended with `pause_turn`: it goes on unchanged, so nothing may come behind it."""
        return self.wants_model and bool(self.entries) and self.entries[-1].role == "assistant"

    @property
    def awaits_budget(self) -> bool:
        """It is idle in the middle of a turn, until the session's budget is raised or removed."""
        return self.status == "idle" and self.wants_model and self.stopped_for(BUDGET_REACHED["type"])

    def stopped_for(self, *reasons: str) -> bool:
        """Whether it last went idle for one of these reasons."""
        return self.stop_reason is not None and self.stop_reason["type"] in reasons

    @property
    def blocked_on(self) -> list[EventId]:
        """Calls that wait for the client."""
        return [call.call_id for call in self.calls.values() if call.awaits_client]


@dataclass(kw_only=True, slots=True)
class State:
    """A session, folded up to `seq` and `arrival`. `last_at` is the last processed_at, or the creation.

    runtime_rate: micro-cents per hour of running, of its creation; None if that is not known.
    """

    session_id: SessionId
    primary_thread_id: ThreadId
    environment_id: EnvironmentId
    environment: Mapping[str, Json]
    status: Status
    threads: dict[ThreadId, Thread]
    inbox: dict[EventId, "Waiting"] = field(default_factory=dict)
    seq: int = 0
    arrival: int = 0
    last_at: datetime
    active_seconds: float = 0.0
    running_since: datetime | None = None
    blocked_on: list[EventId] = field(default_factory=list)
    stop_reason: str | None = None
    budget: Budget | None = None
    runtime_rate: Decimal | None = None
    vault_ids: Sequence[VaultId] = ()
    failed_mounts: frozenset[str] = frozenset()
    """Since the session last went running: it goes on without them."""
    needed_failures: int = 0
    """Likewise, how often it was told of a mount that it does not go on without."""
    failed_servers: frozenset[str] = frozenset()
    """Likewise, MCP servers that it was told of."""

    @property
    def primary(self) -> Thread:
        return self.threads[self.primary_thread_id]

    def fork(self) -> "State":
        """A copy to draft on: folding into it leaves this one as it is. Cheap: events are shared."""
        return replace(
            self,
            threads={
                thread_id: replace(
                    thread,
                    entries=list(thread.entries),
                    calls={call_id: replace(call) for call_id, call in thread.calls.items()},
                )
                for thread_id, thread in self.threads.items()
            },
            inbox=dict(self.inbox),
            blocked_on=list(self.blocked_on),
        )

    @property
    def chars(self) -> int:
        """About how much the conversations hold: what keeping this state costs in memory."""
        return sum(
            _chars(block)
            for thread in self.threads.values()
            for entry in thread.entries
            for block in entry.content
        )

    @property
    def is_self_hosted(self) -> bool:
        """Its tools run at workers of its environment, and never in a sandbox of ours."""
        return self.environment.get("type") == "self_hosted"

    @property
    def awaits_worker(self) -> bool:
        """Some call may be run by a worker now."""
        return any(call.awaits_worker for thread in self.threads.values() for call in thread.calls.values())

    def call(self, call_id: EventId) -> PendingCall | None:
        """The pending call of that id, in whichever thread."""
        return next((t.calls[call_id] for t in self.threads.values() if call_id in t.calls), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """An inbox entry, parsed."""

    arrival: int
    thread_id: ThreadId
    event: ev.Event
    private: Mapping[str, Json] | None = None


def _chars(value: Json) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (dict, Mapping)):  # as in `conversation.weight`
        return sum(map(_chars, value.values()))
    if isinstance(value, (list, tuple, Sequence)):
        return sum(map(_chars, value))
    return 1


def begin(record: SessionRecord) -> State:
    """The state before the first event. The agent and the budget come from the record, as they are by now:
    an older `session.updated` sets them back, and the last one to what they are."""
    threads = record.threads or (
        ThreadRecord(
            thread_id=record.primary_thread_id,
            agent=record.agent,
            created_at=record.created_at,
            updated_at=record.created_at,
        ),
    )
    noted = memory_note([resource.body for resource in record.resources])
    return State(
        session_id=record.session_id,
        primary_thread_id=record.primary_thread_id,
        environment_id=record.environment_id,
        environment=record.environment,
        vault_ids=record.vault_ids,
        status="idle",
        budget=record.budget,
        runtime_rate=record.runtime_rate,
        last_at=record.created_at,
        threads={
            thread.thread_id: Thread(
                thread_id=thread.thread_id,
                parent_thread_id=thread.parent_thread_id,
                agent=thread.agent,
                **_skills(record, thread),
                created_at=thread.created_at,
                memory_note=noted,
            )
            for thread in threads
        },
    )


def _skills(record: SessionRecord, thread: ThreadRecord) -> dict[str, Any]:
    if thread.thread_id != record.primary_thread_id:
        return {}
    has_repositories = any(resource.body["type"] == "github_repository" for resource in record.resources)
    return {
        "skills": tuple(record.skills),
        "seeks_skills": has_repositories and offers(thread.agent["tools"], "read"),
    }
