"""What a brain needs from the world: hands that act and models that think."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

from corral.catalog.mcp.servers import McpServer, McpTools
from corral.kernel.errors import WorldError
from corral.kernel.ids import EventId, SessionId
from corral.session.call import Mount, Placement, Recipe, ToolCall
from corral.session.call import NeverStarted as NeverStarted
from corral.session.content import Block, Json, ToolResult
from corral.session.resources import Resource


class Hands(Protocol):
    """Everything that acts. The epoch is the fencing token of the caller's lease: a host durably keeps
    the highest it saw per session and refuses lower ones with LeaseLost.
    """

    async def placement(self, session_id: SessionId) -> Placement:
        """Where the next call of this session will go. Raises HandsUnavailable."""

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        """Fence every older brain of the session. Before any other call of a new lease. Repeat: safe."""

    async def provision(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> None:
        """Warm a sandbox up while the model thinks. A hint: repeat and failure are harmless."""

    async def execute(self, call: ToolCall, *, epoch: int) -> ToolResult:
        """Run the call once and return its result.

        Repeat: the same call_id joins the running call, or returns the recorded result; it never runs
        twice. A lost sandbox is an error *result*, and so is a placement that names another journal (its
        outcome is unknown, as for `attach`). Cancelling this coroutine leaves the call running.
        Raises: LeaseLost; HandsUnavailable (retryable, by `attach`); SandboxUnavailable (not started);
        MountsMissing (not started: bring them and execute it again).
        """

    async def attach(self, call: ToolCall, *, epoch: int) -> ToolResult:
        """Join a call that an earlier brain may have dispatched.

        Returns its true result; an error result that says "outcome unknown" if it had started and is
        gone, or if the placement names another journal. Raises: NeverStarted, LeaseLost,
        HandsUnavailable.
        """

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        """Kill the calls within CANCEL_GRACE_SECONDS; each then has an error result that says it was
        interrupted, also one that arrives only later. Finished ids are ignored.
        Raises LeaseLost, HandsUnavailable."""

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, epoch: int, only_changed: bool = False
    ) -> Sequence[McpTools]:
        """The tools of these MCP servers, one answer for each in their order, within MCP_LIST_SECONDS or
        so. A server that fails has an error in its answer. only_changed: no answer for one that was asked
        over a connection that is still open, and has not said since that they changed; an older host
        answers for all. Repeat: asks again.
        Raises LeaseLost, HandsUnavailable."""

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        """The results of these calls are in the log: their journal rows may go. Repeat: safe."""


class Mounts(Protocol):
    """What sessions have mounted, and who brings it to their hosts."""

    def learn(self, session_id: SessionId, resources: Sequence[Resource], *, asked_at: float) -> None:
        """What its record says, which was asked for at this time of the event loop: it is believed for
        RESOURCES_FRESH_SECONDS, so that not each call has to ask."""

    async def of(
        self, session_id: SessionId, agent: Mapping[str, Json], environment: Mapping[str, Json]
    ) -> Sequence[Mount]:
        """All that the session has now; `agent` is the snapshot of its primary thread, `environment` the
        config of its environment. Raises NotFound, StoreUnavailable."""

    async def bring(self, session_id: SessionId, mounts: Sequence[Mount], *, epoch: int) -> None:
        """Bring these to where the session is. Cancelling it leaves what is on its way. Repeat: safe.
        Raises MountFailed with the `mount_id` of the first that failed; LeaseLost, HandsUnavailable,
        SandboxUnavailable, NotFound."""

    async def warm(self, session_id: SessionId, recipe: Recipe, *, epoch: int) -> None:
        """Bring what a call of this recipe would find missing. A hint. Raises as `bring`, but no
        MountFailed."""

    async def before(self, call: ToolCall, *, epoch: int) -> None:
        """A call is about to be sent out: bring into its mounts what has changed elsewhere. Never fails."""

    async def after(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """A call has its result: save what it changed in its mounts, before anybody sees the result, which
        is returned with what the agent must know of that. Never fails; what could not be saved now is
        later. Repeat: safe."""


class RepositorySkills(Protocol):
    """The skills that the repositories of sessions bring."""

    async def of(self, session_id: SessionId, *, waits: bool) -> Sequence[Mapping[str, Json]] | None:
        """Each with `name`, `description` (one line) and `path`, its directory in the sandbox. What cannot
        be had is left out.

        It may take as long as a clone, for which nobody waits longer than REPOSITORY_SKILLS_WAIT_SECONDS
        (waits), or at all (else): None, and the look goes on. Repeat: safe; once there was an answer it
        looks anew. Raises NotFound, StoreUnavailable."""


class NoMounts:
    """`Mounts` where nothing is mounted."""

    def learn(self, session_id: SessionId, resources: Sequence[Resource], *, asked_at: float) -> None:
        return

    async def of(
        self, session_id: SessionId, agent: Mapping[str, Json], environment: Mapping[str, Json]
    ) -> Sequence[Mount]:
        return ()

    async def bring(self, session_id: SessionId, mounts: Sequence[Mount], *, epoch: int) -> None:
        assert not mounts

    async def warm(self, session_id: SessionId, recipe: Recipe, *, epoch: int) -> None:
        return

    async def before(self, call: ToolCall, *, epoch: int) -> None:
        return

    async def after(self, call: ToolCall, result: ToolResult) -> ToolResult:
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRequest:
    """One request in Anthropic Messages shape; adapters translate.

    system:   text blocks, may carry `cache_control`; [] for none.
    messages: `{"role": "user"|"assistant", "content": [blocks]}`, alternating, verbatim private blocks
              of earlier replies of the same model included.
    tools:    `{"name", "description", "input_schema"}`, may carry `cache_control`.
    effort:   low | medium | high | xhigh | max, or None for the model's default.
    """

    model: str
    session_id: SessionId
    system: Sequence[Block] = ()
    messages: Sequence[Mapping[str, Json]] = ()
    tools: Sequence[Mapping[str, Json]] = ()
    max_tokens: int
    effort: str | None = None
    speed: Literal["standard", "fast"] = "standard"
    inference_geo: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockStarted:
    """A content block began. `type` is the provider's: text, thinking, tool_use, ..."""

    index: int
    type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    """More text of the text block `index`."""

    index: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one request. `input_tokens` excludes cached ones."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0

    @property
    def total(self) -> int:
        """Tokens read, written and cached."""
        return sum(getattr(self, each.name) for each in fields(self) if each.name.endswith("_tokens"))

    def plus(self, other: "Usage") -> "Usage":
        return Usage(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReply:
    """The whole reply; always the last item of a stream that did not fail.

    content:     the provider's blocks verbatim and in order (thinking with signatures, unknown types).
    stop_reason: end_turn | tool_use | max_tokens | stop_sequence | pause_turn | refusal |
                 model_context_window_exceeded | any later word.
    """

    content: Sequence[Block]
    stop_reason: str
    stop_details: Mapping[str, Json] | None = None
    usage: Usage


ModelEvent = BlockStarted | TextDelta | ModelReply

ModelFailure = Literal["overloaded", "rate_limited", "request_failed", "billing", "context_overflow"]


class ModelFailed(WorldError):
    """A model request failed. Its message is written for the session's user: no secret, no trace.

    retryable: 408, 409, 429, 5xx, 529, broken or silent streams. context_overflow never is.
    retry_after_seconds: what the provider asked for, if it did.
    is_refused: it will not take this request's content, now or later.
    """

    def __init__(
        self,
        message: str,
        *,
        failure: ModelFailure,
        retryable: bool,
        retry_after_seconds: float | None = None,
        is_refused: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.failure = failure
        self.is_refused = is_refused
        self.retry_after_seconds = retry_after_seconds


class Model(Protocol):
    """One provider's models. Retries nothing: the loop does, once, visibly."""

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Ask once. Yields BlockStarted/TextDelta in order, then exactly one ModelReply.

        Closing the iterator aborts the upstream request. Raises ModelFailed, also after partial output;
        a stream that ends without its terminal event is a failure, never a short reply.
        """

    async def aclose(self) -> None:
        """Release connections and child processes."""
