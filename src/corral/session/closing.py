"""Ending a turn without folding its log: what is known from the record and a few rows is enough. Pure.

Nothing of the session's content is parsed here: it may be what kills whoever looks at it. Source:
orchestrator/worker.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from corral.catalog.models import whole_cents
from corral.kernel.clock import rfc3339
from corral.kernel.ids import EVENT, EventId, Ids, ThreadId, derived
from corral.session import events as ev
from corral.session.budget import consumed, running_seconds
from corral.session.content import Json, text_block
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import SessionRecord

LEFT_BEHIND = (
    "The outcome of this tool call is unknown: the turn was ended while it may have been running, so it may"
    " have happened, in part or in full. Check before you repeat it."
)
"""The result of a call that a turn's forced end leaves without one."""

_RETRIES_EXHAUSTED: Mapping[str, Json] = {"type": "retries_exhausted"}
_AT_WORK = ("running", "rescheduling")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenCall:
    """A tool use without a result. is_mcp: of a tool of an MCP server."""

    call_id: EventId
    thread_id: ThreadId
    is_mcp: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Remains:
    """requests: model requests without an end, each with its thread; calls: tool uses without a result."""

    record: SessionRecord
    requests: Sequence[tuple[EventId, ThreadId]]
    calls: Sequence[OpenCall]
    inbox: Sequence[InboxEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fact:
    """An event to be written; `entry` if it is an input that is taken as it is."""

    thread_id: ThreadId
    event: ev.Event | None = None
    entry: InboxEntry | None = None
    answers: EventId | None = None


def closing(
    remains: Remains, *, message: str, ids: Ids, now: datetime, last_at: datetime
) -> list[StoredEvent]:
    """The events that end the turn, from `record.last_seq` + 1 on. `last_at`: of the last event."""
    stored = []
    for seq, fact in enumerate(_facts(remains, message, ids, now), start=remains.record.last_seq + 1):
        last_at = max(now, last_at + timedelta(microseconds=1))
        if fact.entry is not None:
            event_id, kind, arrival = fact.entry.event_id, fact.entry.type, fact.entry.arrival
            body = _processed(fact.entry, last_at)
            private: dict[str, Json] | None = {**(fact.entry.private or {}), "moot": True}
        else:
            assert fact.event is not None
            event_id, kind, arrival, private = fact.event.id, fact.event.type, None, None
            body = fact.event.body(processed_at=last_at)
        stored.append(
            StoredEvent(
                seq=seq,
                event_id=event_id,
                type=kind,
                thread_id=fact.thread_id,
                arrival=arrival,
                body=body,
                private=private,
                processed_at=last_at,
                answers=fact.answers,
            )
        )
    return stored


def closed_usage(record: SessionRecord, *, at: datetime) -> dict[str, Json]:
    """The wire's `usage` once the session is idle."""
    usage = {**record.usage, "active_seconds": closed_seconds(record, at=at)}
    cost = consumed(record, at=at)
    if cost is not None:
        usage["list_cost"] = {"amount": whole_cents(cost), "currency": "USD"}
    return usage


def closed_seconds(record: SessionRecord, *, at: datetime) -> float:
    return running_seconds(record.active_seconds, record.running_since, at)


def _facts(remains: Remains, message: str, ids: Ids, now: datetime) -> Iterator[_Fact]:
    record = remains.record
    primary = record.primary_thread_id
    at_work = [thread for thread in record.threads if thread.status in _AT_WORK]
    names = {thread.thread_id: thread.agent["name"] for thread in record.threads}
    ends = [thread.thread_id for thread in at_work] or [primary]
    if not at_work and not remains.calls:  # what waited in the inbox was about to begin a turn
        yield _Fact(thread_id=primary, event=ev.SessionStatusRunning(id=ids.event()))
        yield _Fact(
            thread_id=primary,
            event=ev.SessionThreadStatusRunning(
                id=ids.event(), session_thread_id=primary, agent_name=names[primary]
            ),
        )
    for request, thread_id in remains.requests:
        usage = dict.fromkeys(
            ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"), 0
        )
        yield _Fact(
            thread_id=thread_id,
            event=ev.SpanModelRequestEnd(
                id=ids.event(), is_error=True, model_request_start_id=request, model_usage=usage
            ),
        )
    for call in remains.calls:
        fields: dict[str, Json] = {"content": [text_block(LEFT_BEHIND)], "is_error": True}
        event_id = EventId(derived(EVENT, "result", call.call_id))
        event: ev.Event
        if call.is_mcp:
            event = ev.AgentMcpToolResult(id=event_id, mcp_tool_use_id=call.call_id, **fields)
        elif record.environment.get("type") == "self_hosted":
            # A worker takes a call for settled by an answer of its own kind.
            event = ev.UserToolResult(id=event_id, tool_use_id=call.call_id, **fields)
        else:
            event = ev.AgentToolResult(id=event_id, tool_use_id=call.call_id, **fields)
        yield _Fact(thread_id=call.thread_id, answers=call.call_id, event=event)
    error = {"type": "unknown_error", "message": message, "retry_status": {"type": "exhausted"}}
    yield _Fact(thread_id=primary, event=ev.SessionError(id=ids.event(), error=error))
    for entry in remains.inbox:
        yield _Fact(thread_id=entry.thread_id, entry=entry)
    for thread_id in ends:
        yield _Fact(
            thread_id=thread_id,
            event=ev.SessionThreadStatusIdle(
                id=ids.event(),
                session_thread_id=thread_id,
                agent_name=names[thread_id],
                stop_reason=_RETRIES_EXHAUSTED,
                stop_details=None,
            ),
        )
    yield _Fact(thread_id=primary, event=_usage(record, ids, now))
    idle = ev.SessionStatusIdle(id=ids.event(), stop_reason=_RETRIES_EXHAUSTED, stop_details=None)
    yield _Fact(thread_id=primary, event=idle)


def _usage(record: SessionRecord, ids: Ids, now: datetime) -> ev.SessionUsage:
    usage = closed_usage(record, at=now)
    if record.budget is None:
        return ev.SessionUsage(id=ids.event(), usage=usage)
    return ev.SessionUsage(id=ids.event(), usage=usage, budget=record.budget)


def _processed(entry: InboxEntry, at: datetime) -> bytes:
    """Its body with the time in place of null, unread: `Event.body` puts it last."""
    head, null, rest = entry.body.rpartition(b'"processed_at":null}')
    if null and not rest:
        return head + b'"processed_at":"' + rfc3339(at).encode() + b'"}'
    # Not one of ours any more; what clients need to read it.
    return orjson.dumps(
        {"id": entry.event_id, "type": entry.type, "content": [], "processed_at": rfc3339(at)}
    )
