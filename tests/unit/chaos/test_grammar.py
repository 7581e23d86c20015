"""The grammar takes the logs that Corral writes, and catches a broken one of each kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.chaos.grammar import NEXT, breaches
from corral.session.events import EVENT_TYPES

Log = list[dict[str, Any]]
GOLDEN = Path(__file__).parents[2] / "replay"


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": fields.pop("id", kind), **fields}


def running() -> Log:
    return [event("session.status_running"), event("session.thread_status_running")]


def asked(number: int, *reply: dict[str, Any], is_error: bool = False) -> Log:
    request = f"request {number}"
    end = event("span.model_request_end", model_request_start_id=request, is_error=is_error)
    return [event("span.model_request_start", id=request), *reply, end]


def use(call_id: str) -> dict[str, Any]:
    return event("agent.tool_use", id=call_id)


def result(call_id: str) -> dict[str, Any]:
    return event("agent.tool_result", tool_use_id=call_id)


def idle(reason: str = "end_turn", **fields: Any) -> Log:
    stop = {"stop_reason": {"type": reason, **fields}}
    return [
        event("session.thread_status_idle", **stop),
        event("session.usage"),
        event("session.status_idle", **stop),
    ]


def turn() -> Log:
    """A message, two calls side by side, a lost request, an answer."""
    return [
        *running(),
        event("user.message"),
        *asked(1, event("agent.message"), use("c1"), use("c2")),
        result("c2"),
        result("c1"),
        *asked(2, is_error=True),
        *asked(3, event("agent.message")),
        *idle(),
    ]


LEGAL: dict[str, Callable[[], Log]] = {
    "nothing": list,
    "a turn": turn,
    "two turns": lambda: [*turn(), *[{**e, "id": e["id"] + "'"} for e in running()], *asked(9), *idle()],
    "an interrupt while idle": lambda: [*turn(), event("user.interrupt")],
    "interrupted while it asks": lambda: [
        *running(), *asked(1, is_error=True), event("user.interrupt"), *idle(),
    ],
    "a call waits for the client": lambda: [
        *running(), *asked(1, use("c1")), *idle("requires_action", event_ids=["c1"]),
        *running(), event("user.tool_confirmation", tool_use_id="c1"), result("c1"),
        *asked(2), *idle(),
    ],
    "one of two is confirmed": lambda: [
        *running(), *asked(1, use("c1"), use("c2")), *idle("requires_action", event_ids=["c1", "c2"]),
        event("user.tool_confirmation", tool_use_id="c1"), *idle("requires_action", event_ids=["c2"]),
        *running(), event("user.tool_confirmation", tool_use_id="c2"), result("c1"), result("c2"),
        *asked(2), *idle(),
    ],
    "paused at its budget, and raised": lambda: [
        *running(), event("user.message"), *asked(1, use("c1")), result("c1"), *idle("budget_reached"),
        event("session.updated"), *running(), *asked(2), *idle(),
    ],
    "paused at its budget, and interrupted": lambda: [
        *running(), *idle("budget_reached"), event("session.updated"), event("user.interrupt"), *idle(),
    ],
    "a retry": lambda: [
        *running(), *asked(1, is_error=True), event("session.error"), event("session.status_rescheduled"),
        event("session.thread_status_rescheduled"), *running(), *asked(2), *idle(),
    ],
    "archived": lambda: [
        *turn(), event("session.thread_status_terminated"), event("session.status_terminated"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_legal(name: str) -> None:
    assert list(breaches(LEGAL[name]())) == []


def without(log: Log, kind: str) -> Log:
    at = next(n for n, e in enumerate(log) if e["type"] == kind)
    return log[:at] + log[at + 1 :]


BROKEN: dict[str, tuple[Callable[[], Log], str]] = {
    "no end": (lambda: turn()[:-1], "the turn has no end"),
    "no usage": (lambda: without(turn(), "session.usage"), "status_idle may not come while stopping"),
    "no start": (lambda: turn()[1:], "thread_status_running may not come while idle"),
    "a request without an end": (
        lambda: [*running(), event("span.model_request_start"), *idle()],
        "thread_status_idle may not come while asking",
    ),
    "another request's end": (
        lambda: [
            *running(), event("span.model_request_start", id="a"),
            event("span.model_request_end", model_request_start_id="b"), *idle(),
        ],
        "the end of b, but a is open",
    ),
    "a reply outside of a request": (
        lambda: [*running(), event("agent.message"), *idle()],
        "agent.message may not come while running",
    ),
    "a failed request with a reply": (
        lambda: [*running(), *asked(1, event("agent.message"), is_error=True), *idle()],
        "has left events of its reply",
    ),
    "a call without an answer": (
        lambda: [*running(), *asked(1, use("c1")), *idle()],
        "idle (end_turn) while ['c1'] have no answer",
    ),
    "asking on without an answer": (
        lambda: [*running(), *asked(1, use("c1")), *asked(2), result("c1"), *idle()],
        "the model is asked while ['c1'] have no answer",
    ),
    "a call answered twice": (
        lambda: [*running(), *asked(1, use("c1")), result("c1"), result("c1"), *asked(2), *idle()],
        "the call c1 is answered twice",
    ),
    "an answer to nothing": (
        lambda: [*running(), *asked(1), result("c1"), *idle()],
        "an answer to c1, which nobody asked for",
    ),
    "a call asked for twice": (
        lambda: [*running(), *asked(1, use("c1"), use("c1")), result("c1"), *idle()],
        "the call c1 is asked for twice",
    ),
    "waiting for what is not open": (
        lambda: [*running(), *asked(1), *idle("requires_action", event_ids=["c9"])],
        "waiting for ['c9'], which are not open",
    ),
    "a turn in a turn": (
        lambda: [*running(), event("session.status_running"), *idle()],
        "session.status_running may not come while running",
    ),
    "life after the end": (
        lambda: [*LEGAL["archived"](), event("user.message")],
        "user.message may not come while terminated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    log, message = BROKEN[name]
    found = [breach.message for breach in breaches(log())]
    assert any(message in each for each in found), found


def test_a_log_that_goes_on_needs_no_end() -> None:
    assert list(breaches(turn()[:5], is_over=False)) == []


def test_every_event_type_has_its_place() -> None:
    known = {kind for following in NEXT.values() for kind in following}
    never_stored = {"session.deleted"}
    assert known == set(EVENT_TYPES) - never_stored


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_golden_logs_are_legal(path: Path) -> None:
    golden = json.loads(path.read_text())
    bodies = [each["body"] for each in golden["events"]]
    assert list(breaches([json.loads(b) if isinstance(b, str) else b for b in bodies], is_over=False)) == []
