"""What a brain can have in flight, and how each ends. Effects follow events: an action is only started
when the intent it serves is durable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.brain.judge import Judgement
from corral.brain.ports import ModelFailed, ModelReply
from corral.catalog.mcp.servers import McpTools
from corral.kernel.ids import EventId, ThreadId
from corral.session.call import Placement
from corral.session.content import Json, ToolResult


@dataclass(frozen=True, kw_only=True, slots=True)
class AskModel:
    """Make the model request that `request` (a span.model_request_start) announces."""

    thread_id: ThreadId
    request: EventId


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTool:
    """Execute a call; attach first if an earlier brain may have dispatched it."""

    call_id: EventId
    attach: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Wait before the next attempt of a thread's model request."""

    thread_id: ThreadId
    failures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Seek:
    """Before a request of the thread, look what it is to be told: which skills the repositories of the
    session bring, and which tools the MCP servers of its agent list; of these all once the session went
    running, and before later requests those that may have changed. waits: for skills for a while, with
    its first request; a later one takes what is known by then."""

    thread_id: ThreadId
    waits: bool


Action = AskModel | RunTool | Backoff | Seek


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """End an action that is in flight because its turn is to end. Its completion still arrives."""

    action: Action


@dataclass(frozen=True, kw_only=True, slots=True)
class Replied:
    """message_ids: the event ids that previews have used, by block index.
    placement: where calls of this reply will go; None if it has none, or no hands host could be found.
    judgements: of calls whose policy is `auto`, by the model's id of the call.
    """

    action: AskModel
    reply: ModelReply
    message_ids: Mapping[int, EventId] = field(default_factory=dict)
    placement: Placement | None = None
    judgements: Mapping[str, Judgement] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    action: AskModel
    error: ModelFailed


@dataclass(frozen=True, kw_only=True, slots=True)
class Aborted:
    """A model request or a backoff was stopped, because its turn is to end."""

    action: Action


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    action: RunTool
    result: ToolResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmounted:
    """A mount cannot be had, so the call has not started. It does once that is in the log, without it.
    error: of the `session.error`, without `retry_status`. needed_failures: of a mount that the session
    needs, how many it had been told of when the call was tried; the call is tried again."""

    action: RunTool
    mount_id: str
    error: Mapping[str, Json]
    needed_failures: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Waited:
    action: Backoff


@dataclass(frozen=True, kw_only=True, slots=True)
class Sought:
    """skills: as `RepositorySkills.of`. They are logged with the request that is first told of them; None:
    that the thread is told later is logged. listings: of the servers; logged with the request, too, if
    they are news."""

    action: Seek
    skills: tuple[Mapping[str, Json], ...] | None
    listings: tuple[McpTools, ...] = ()


Completion = Replied | Failed | Aborted | Ran | Unmounted | Waited | Sought
