"""The event types of a session. One definition per shape, for the log, the brain and the wire.

A body holds exactly the fields that were set, so a field the hosted service leaves out is left out and
a null it sends is sent. `parse` reads tolerantly: fields and types written by a newer version survive.
Source: API docs, events and the SDK's types/beta/sessions/*_event.py.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, SkipValidation

from corral.kernel.clock import rfc3339
from corral.kernel.ids import EventId, ThreadId
from corral.session.content import Block, Json

Content = SkipValidation[Sequence[Block]]
Object = SkipValidation[Mapping[str, Json]]
"""JSON that was checked at the HTTP edge or made by us: looking into it again would be most of a parse."""


class Event(BaseModel):
    """Base of all events. `processed_at` is None only while an input waits in the inbox."""

    model_config = ConfigDict(frozen=True, extra="allow")

    TYPE: ClassVar[str] = ""

    id: EventId
    type: str = ""  # of a subclass: its TYPE
    processed_at: datetime | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        # A default, not an __init__ that fills it in: a long log is parsed in half the time.
        if cls.TYPE:
            cls.model_fields["type"].default = cls.TYPE
            cls.model_rebuild(force=True)

    def body(self, *, processed_at: datetime | None) -> bytes:
        """The public JSON: the fields that were set, `processed_at` last."""
        # The values are plain JSON, so they need no model_dump, which would cost more than all else here.
        given, values = self.model_fields_set, self.__dict__
        fields: dict[str, Json] = {"id": self.id, "type": self.type}
        for name in type(self).__pydantic_fields__:
            if name in given:
                fields[name] = values[name]
        fields |= self.model_extra or {}
        fields.pop("processed_at", None)  # it goes last
        fields["processed_at"] = None if processed_at is None else rfc3339(processed_at)
        return orjson.dumps(fields)


# -- client-sent --------------------------------------------------------------------------------------


class UserMessage(Event):
    TYPE = "user.message"
    content: Content


class UserInterrupt(Event):
    TYPE = "user.interrupt"
    session_thread_id: ThreadId | None = None


class UserToolConfirmation(Event):
    TYPE = "user.tool_confirmation"
    tool_use_id: EventId
    result: Literal["allow", "deny"]
    deny_message: str | None = None
    session_thread_id: ThreadId | None = None


class UserCustomToolResult(Event):
    TYPE = "user.custom_tool_result"
    custom_tool_use_id: EventId
    content: Content | None = None
    is_error: bool | None = None
    session_thread_id: ThreadId | None = None


class UserToolResult(Event):
    """Of a call that a worker of a self-hosted environment runs: its answer, or ours when the turn ended
    before. Workers take a call that has one for settled, and no other event."""

    TYPE = "user.tool_result"
    tool_use_id: EventId
    content: Content | None = None
    is_error: bool | None = None
    session_thread_id: ThreadId | None = None


class SystemMessage(Event):
    TYPE = "system.message"
    content: Content


# -- agent --------------------------------------------------------------------------------------------


class AgentMessage(Event):
    TYPE = "agent.message"
    content: Content


class AgentThinking(Event):
    TYPE = "agent.thinking"


class AgentToolUse(Event):
    TYPE = "agent.tool_use"
    name: str
    input: Object
    evaluated_permission: Literal["allow", "ask", "deny"] | None = None
    evaluation: Object | None = None


class AgentToolResult(Event):
    TYPE = "agent.tool_result"
    tool_use_id: EventId
    content: Content | None = None
    is_error: bool | None = None


class AgentMcpToolUse(AgentToolUse):
    """`name` is the server's own name of the tool."""

    TYPE = "agent.mcp_tool_use"
    mcp_server_name: str


class AgentMcpToolResult(Event):
    TYPE = "agent.mcp_tool_result"
    mcp_tool_use_id: EventId
    content: Content | None = None
    is_error: bool | None = None


class AgentCustomToolUse(Event):
    TYPE = "agent.custom_tool_use"
    name: str
    input: Object


class AgentThreadContextCompacted(Event):
    TYPE = "agent.thread_context_compacted"


# -- session ------------------------------------------------------------------------------------------


class SessionStatusRunning(Event):
    TYPE = "session.status_running"


class SessionStatusRescheduled(Event):
    TYPE = "session.status_rescheduled"


class SessionStatusTerminated(Event):
    TYPE = "session.status_terminated"


class SessionStatusIdle(Event):
    TYPE = "session.status_idle"
    stop_reason: Object
    stop_details: Object | None = None


class SessionThreadStatusRunning(Event):
    TYPE = "session.thread_status_running"
    session_thread_id: ThreadId
    agent_name: str


class SessionThreadStatusRescheduled(SessionThreadStatusRunning):
    TYPE = "session.thread_status_rescheduled"


class SessionThreadStatusTerminated(SessionThreadStatusRunning):
    TYPE = "session.thread_status_terminated"


class SessionThreadStatusIdle(Event):
    TYPE = "session.thread_status_idle"
    session_thread_id: ThreadId
    agent_name: str
    stop_reason: Object
    stop_details: Object | None = None


class SessionUsage(Event):
    TYPE = "session.usage"
    usage: Object
    budget: Object | None = None


class SessionError(Event):
    TYPE = "session.error"
    error: Object


class SessionUpdated(Event):
    TYPE = "session.updated"
    title: str | None = None
    metadata: Mapping[str, str] | None = None
    agent: Object | None = None
    budget: Object | None = None


class SessionDeleted(Event):
    TYPE = "session.deleted"


# -- spans --------------------------------------------------------------------------------------------


class SpanModelRequestStart(Event):
    TYPE = "span.model_request_start"


class SpanModelRequestEnd(Event):
    TYPE = "span.model_request_end"
    model_request_start_id: EventId
    model_usage: Object
    is_error: bool | None = None


def _concrete(base: type[Event]) -> dict[str, type[Event]]:
    found = {base.TYPE: base} if base.TYPE else {}
    for child in base.__subclasses__():
        found |= _concrete(child)
    return found


EVENT_TYPES: Mapping[str, type[Event]] = _concrete(Event)

INBOX_TYPES = frozenset(
    kind.TYPE for kind in (UserMessage, UserInterrupt, UserToolConfirmation, SystemMessage)
)
"""Inputs that wait for a brain; all other client-sent events are processed on receipt."""


def parse(body: bytes) -> Event:
    """An event from its stored body. A type this version does not know becomes a plain `Event`."""
    fields = orjson.loads(body)
    return EVENT_TYPES.get(fields["type"], Event).model_validate(fields)


def without_body(kind: type[Event], event_id: EventId) -> Event:
    """An event for a fold that does not look into its body."""
    return kind.model_construct(frozenset(("id", "type")), id=event_id, type=kind.TYPE)  # type: ignore[arg-type]
