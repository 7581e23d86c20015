"""Query strings: bracketed names (`types[]=a&types[]=b`, `created_at[gte]=...`), strict about names.

Starlette has already decoded percent-encoded brackets. `beta=true`, which SDKs add, means nothing. An
unknown name is refused, because a misspelled filter would silently list everything.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from corral.api.schema.strict import refusal
from corral.kernel.clock import parse_rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    EVENT_DELTAS_VALUES_MAX,
    EVENT_PAGE_LIMIT_DEFAULT,
    EVENT_PAGE_LIMIT_MAX,
    INTEGER_MAX,
    PAGE_LIMIT_DEFAULT,
    PAGE_LIMIT_MAX,
    THREAD_PAGE_LIMIT_MAX,
)
from corral.session.record import Status


class Query(BaseModel):
    """Base of query shapes: text is converted, unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


Parsed = TypeVar("Parsed", bound=Query)
IGNORED = frozenset({"beta"})

Time = Annotated[datetime, BeforeValidator(parse_rfc3339)]
Order = Literal["asc", "desc"]
PageLimit = Annotated[int, Field(ge=1, le=PAGE_LIMIT_MAX)]


def parse_query(shape: type[Parsed], params: QueryParams) -> Parsed:
    """Raises InvalidRequest naming the parameter."""
    values: dict[str, Any] = {}
    for name, value in params.multi_items():
        if name in IGNORED:
            continue
        if "\0" in value:  # PostgreSQL takes none
            raise InvalidRequest(f"{name}: must not contain the character U+0000")
        if name.endswith("[]"):
            values.setdefault(name, []).append(value)
        elif name in values:
            raise InvalidRequest(f"{name}: given twice")
        else:
            values[name] = value
    try:
        return shape.model_validate(values, by_name=False)
    except ValidationError as error:
        raise refusal(error, values) from None


class NoQuery(Query):
    pass


class AgentQuery(Query):
    version: Annotated[int, Field(ge=1, le=INTEGER_MAX)] | None = None


class PageQuery(Query):
    limit: PageLimit = PAGE_LIMIT_DEFAULT
    page: str | None = None


class EnvironmentListQuery(PageQuery):
    include_archived: bool = False


class AgentListQuery(PageQuery):
    include_archived: bool = False
    created_gte: Annotated[Time | None, Field(alias="created_at[gte]")] = None
    created_lte: Annotated[Time | None, Field(alias="created_at[lte]")] = None


class _TimeRange(Query):
    created_gt: Annotated[Time | None, Field(alias="created_at[gt]")] = None
    created_gte: Annotated[Time | None, Field(alias="created_at[gte]")] = None
    created_lt: Annotated[Time | None, Field(alias="created_at[lt]")] = None
    created_lte: Annotated[Time | None, Field(alias="created_at[lte]")] = None


class SessionListQuery(_TimeRange):
    agent_id: str | None = None
    agent_version: Annotated[int, Field(ge=1, le=INTEGER_MAX)] | None = None
    deployment_id: str | None = None
    memory_store_id: str | None = None
    statuses: Annotated[list[Status], Field(alias="statuses[]")] = []
    include_archived: bool = False
    order: Order | None = None
    limit: PageLimit = PAGE_LIMIT_DEFAULT
    page: str | None = None


EventType = Literal[
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.custom_tool_result",
    "user.tool_result",
    "user.define_outcome",
    "system.message",
    "agent.custom_tool_use",
    "agent.message",
    "agent.thinking",
    "agent.mcp_tool_use",
    "agent.mcp_tool_result",
    "agent.tool_use",
    "agent.tool_result",
    "agent.thread_message_received",
    "agent.thread_message_sent",
    "agent.thread_context_compacted",
    "session.error",
    "session.status_rescheduled",
    "session.status_running",
    "session.status_idle",
    "session.status_terminated",
    "session.thread_created",
    "session.thread_status_running",
    "session.thread_status_idle",
    "session.thread_status_terminated",
    "session.thread_status_rescheduled",
    "session.updated",
    "session.usage",
    "span.outcome_evaluation_start",
    "span.outcome_evaluation_ongoing",
    "span.outcome_evaluation_end",
    "span.model_request_start",
    "span.model_request_end",
    "workflow_run.created",
    "workflow_run.status_running",
    "workflow_run.status_idle",
    "workflow_run.status_ended",
    "workflow_run.error",
    "workflow_run.phase_started",
    "workflow_run.phase_ended",
]
"""The 41 types that history can be filtered by. Source: API docs, events "Catalogue"."""


class EventListQuery(_TimeRange):
    types: Annotated[list[EventType], Field(alias="types[]")] = []
    order: Order | None = None
    limit: Annotated[int, Field(ge=1, le=EVENT_PAGE_LIMIT_MAX)] = EVENT_PAGE_LIMIT_DEFAULT
    page: str | None = None


class ThreadEventListQuery(Query):
    limit: Annotated[int, Field(ge=1, le=EVENT_PAGE_LIMIT_MAX)] = EVENT_PAGE_LIMIT_DEFAULT
    page: str | None = None


class ThreadListQuery(Query):
    statuses: Annotated[list[Status], Field(alias="statuses[]")] = []
    limit: Annotated[int, Field(ge=1, le=THREAD_PAGE_LIMIT_MAX)] = THREAD_PAGE_LIMIT_MAX
    page: str | None = None


class StreamQuery(Query):
    event_deltas: Annotated[
        list[Literal["agent.message", "agent.thinking"]],
        Field(alias="event_deltas[]", max_length=EVENT_DELTAS_VALUES_MAX),
    ] = []
