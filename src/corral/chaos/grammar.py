"""The grammar of a session's log: which event may follow which. Data first, then the checker that reads it.

A session is a sequence of turns. Written as a rule per turn, with `?` for optional and `*` for any number:

    turn     = RUNNING input* (request results)* [error] IDLE
    RUNNING  = session.status_running, session.thread_status_running
    request  = span.model_request_start, reply*, span.model_request_end
    reply    = agent.message | agent.thinking | agent.tool_use | agent.mcp_tool_use
             | agent.custom_tool_use | agent.thread_context_compacted
    results  = agent.tool_result* | agent.mcp_tool_result* | user.custom_tool_result* | user.tool_result*
    IDLE     = session.thread_status_idle, session.usage, session.status_idle

The table below is that rule as an automaton, with waiting for the client, interrupts and retries added.
What a table cannot say, the checker does: a call is opened once, answered once, and not left behind.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from corral.session.content import Json

__all__ = ["NEXT", "Breach", "Place", "breaches"]

Place = Literal[
    "idle",  # nothing to do; or it waits for the client
    "starting",  # the session runs, its thread does not yet
    "running",  # between two requests: inputs are taken, results come in
    "asking",  # a model request is open
    "stopping",  # the thread is idle, the sum has not been drawn
    "counted",  # the usage is there, the session is not idle yet
    "delaying",  # the session is rescheduled, its thread not yet
    "rescheduling",  # a failed request waits for its next attempt
    "ending",  # the thread is terminated, the session not yet
    "terminated",
]

_INPUTS: Final = ("user.message", "user.interrupt", "user.tool_confirmation", "system.message")
_RESULTS: Final = (
    *("agent.tool_result", "agent.mcp_tool_result"),
    *("user.custom_tool_result", "user.tool_result"),
)
_REPLY: Final = (
    *("agent.message", "agent.thinking", "agent.tool_use", "agent.mcp_tool_use", "agent.custom_tool_use"),
    "agent.thread_context_compacted",
)


def _to(place: Place, *types: str) -> dict[str, Place]:
    return dict.fromkeys(types, place)


NEXT: Final[Mapping[Place, Mapping[str, Place]]] = {
    "idle": {
        "session.status_running": "starting",
        "session.thread_status_idle": "stopping",  # interrupted, or answered in part
        "session.thread_status_terminated": "ending",
        **_to("idle", *_INPUTS, *_RESULTS, "session.error"),
        **_to("idle", "session.updated"),
    },
    "starting": {"session.thread_status_running": "running"},
    "running": {
        "span.model_request_start": "asking",
        "session.thread_status_idle": "stopping",
        "session.status_rescheduled": "delaying",
        **_to("running", *_INPUTS, *_RESULTS, "session.error"),
        **_to("running", "session.updated"),
    },
    "asking": {
        "span.model_request_end": "running",
        **_to("asking", *_REPLY, "session.updated"),
    },
    "stopping": {"session.usage": "counted"},
    "counted": {"session.status_idle": "idle"},
    "delaying": {"session.thread_status_rescheduled": "rescheduling"},
    "rescheduling": {
        "session.status_running": "starting",
        "session.thread_status_idle": "stopping",
        **_to("rescheduling", *_INPUTS, "session.error", "session.updated"),
    },
    "ending": {"session.status_terminated": "terminated"},
    "terminated": {},
}
"""What may come next, and where it leads. An event that is not listed is a breach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """`at` is the position in the log, from 1; 0 for what is missing at its end."""

    at: int
    message: str


@dataclass(kw_only=True, slots=True)
class _Reading:
    place: Place = "idle"
    request: str | None = None
    replied: int = 0  # events of the open request so far
    open_calls: dict[str, str] = field(default_factory=dict)  # tool use id -> type of the use
    asked_calls: set[str] = field(default_factory=set)
    answered_calls: set[str] = field(default_factory=set)
    confirmed_calls: set[str] = field(default_factory=set)


def breaches(events: Sequence[Mapping[str, Json]], *, is_over: bool = True) -> Iterator[Breach]:
    """Every way in which this log is not a legal one; nothing if it is.

    Shape:   public bodies in the order of the log. Unknown types (of a newer version) are passed over.
    is_over: the session has come to rest, so that its last turn must have an end.
    """
    reading = _Reading()
    for at, event in enumerate(events, start=1):
        if event["type"] not in _KNOWN:
            continue
        for message in _read(reading, event):
            yield Breach(at=at, message=message)
    if is_over and reading.place not in ("idle", "terminated"):
        yield Breach(at=0, message=f"the log ends {reading.place}: the turn has no end")


_KNOWN: Final = frozenset(kind for following in NEXT.values() for kind in following)


def _read(reading: _Reading, event: Mapping[str, Json]) -> Iterator[str]:
    kind, before = event["type"], reading.place
    place = NEXT[before].get(kind, before)
    if kind not in NEXT[before]:
        yield f"{kind} may not come while {before}"
        # Read on from where this event belongs, so that one breach is one and not a hundred.
        place = next((to for row in NEXT.values() for name, to in row.items() if name == kind), before)
    reading.place = place
    match kind:
        case "span.model_request_start":
            if reading.open_calls:
                yield f"the model is asked while {sorted(reading.open_calls)} have no answer"
            reading.request, reading.replied = event["id"], 0
        case "span.model_request_end":
            if event["model_request_start_id"] != reading.request:
                yield f"the end of {event['model_request_start_id']}, but {reading.request} is open"
            if event.get("is_error") and reading.replied:
                yield "a failed request has left events of its reply"
            reading.request = None
        case "agent.message" | "agent.thinking" | "agent.thread_context_compacted":
            reading.replied += 1
        case "agent.tool_use" | "agent.mcp_tool_use" | "agent.custom_tool_use":
            reading.replied += 1
            if event["id"] in reading.asked_calls:
                yield f"the call {event['id']} is asked for twice"
            reading.asked_calls.add(event["id"])
            reading.open_calls[event["id"]] = kind
        case "user.tool_confirmation":
            reading.confirmed_calls.add(event["tool_use_id"])
        case "agent.tool_result" | "user.tool_result":
            yield from _answer(reading, event["tool_use_id"])
        case "agent.mcp_tool_result":
            yield from _answer(reading, event["mcp_tool_use_id"])
        case "user.custom_tool_result":
            yield from _answer(reading, event["custom_tool_use_id"])
        case "session.status_idle":
            yield from _idle(reading, event["stop_reason"])


def _answer(reading: _Reading, call_id: str) -> Iterator[str]:
    if call_id in reading.answered_calls:
        yield f"the call {call_id} is answered twice"
    elif call_id not in reading.open_calls:
        yield f"an answer to {call_id}, which nobody asked for"
    reading.open_calls.pop(call_id, None)
    reading.answered_calls.add(call_id)


def _idle(reading: _Reading, stop_reason: Mapping[str, Json]) -> Iterator[str]:
    waits_for = set(stop_reason.get("event_ids", ()))
    left = reading.open_calls.keys() - waits_for
    if stop_reason["type"] == "requires_action":
        left -= reading.confirmed_calls  # allowed already: they begin when the last of them is
    if left:
        yield f"idle ({stop_reason['type']}) while {sorted(left)} have no answer"
    if waits_for - reading.open_calls.keys():
        yield f"idle, waiting for {sorted(waits_for - reading.open_calls.keys())}, which are not open"
    if (stop_reason["type"] == "requires_action") != bool(waits_for):
        yield f"idle with {stop_reason['type']}, waiting for {sorted(waits_for)}"
