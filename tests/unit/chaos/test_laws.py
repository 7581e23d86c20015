"""A history without fault breaks no law; a broken one of each kind is caught by the law that names it."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from corral.brain.derive import derive
from corral.brain.turn import NO_HANDS
from corral.catalog.models import ModelTable
from corral.chaos.history import Frame, History, Sent, Trouble
from corral.chaos.laws import LAWS, judge
from corral.chaos.plan import Call, command
from corral.hands.news import NEWS_KEPT, NEWS_LOST, NEWS_RESTORED
from corral.kernel.ids import EventId, Ids
from corral.session.fold import fold_stored
from corral.session.log import InboxEntry, Snapshot, StoredEvent
from corral.session.state import begin
from corral.testing.sessions import new_session

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CALL = Call(token="t1.0.0", puts_out=True)
UNKNOWN = "Its outcome is unknown: it may have done all of it."
USAGE = {
    "input_tokens": 25, "output_tokens": 12, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0,
}  # fmt: skip
PRIVATE_USAGE = {
    "input_tokens": 25, "output_tokens": 12, "cache_read_input_tokens": 0, "cost_microcents": "0",
    "cache_creation_5m_input_tokens": 0, "cache_creation_1h_input_tokens": 0, "web_search_requests": 0,
}  # fmt: skip


def good(*, result: str = f"done {CALL.token}\n", is_error: bool = False) -> History:
    """One turn: a message, one call, its result, an answer."""
    record = new_session(Ids(), BEGAN)
    agent = {"id": "agent_1", "version": 1, "name": "a", "model": {"id": "claude-opus-5-5"}, "tools": []}
    thread = record.primary_thread_id
    record = replace(record, agent=agent, threads=[replace(record.threads[0], agent=agent)])
    message = [{"type": "text", "text": "go"}]
    naming = {"session_thread_id": thread, "agent_name": "a"}
    stop = {"stop_reason": {"type": "end_turn"}, "stop_details": None}
    use = {"id": "c1", "type": "agent.tool_use", "name": "bash", "input": {"command": command(CALL)}}
    placed = {"placement": {"host_id": "host_1", "journal_id": "j"}, "epoch": 1, "model_tool_use_id": "x"}

    def start(event_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"id": event_id, "type": "span.model_request_start"}, {"private": {"epoch": 1}}

    def end(request: str, stop_reason: str) -> tuple[dict[str, Any], dict[str, Any]]:
        private = {"content": [], "stop_reason": stop_reason, "usage": PRIVATE_USAGE}
        body = {"type": "span.model_request_end", "model_request_start_id": request, "is_error": False}
        return {"id": f"end {request}", **body, "model_usage": USAGE}, {"private": private}

    rows: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"id": "e1", "type": "session.status_running"}, {}),
        ({"id": "e2", "type": "session.thread_status_running", **naming}, {}),
        ({"id": "m1", "type": "user.message", "content": message}, {"arrival": 1}),
        start("r1"),
        ({**use, "evaluated_permission": "allow"}, {"private": placed}),
        end("r1", "tool_use"),
        (
            {
                "id": "a1", "type": "agent.tool_result", "tool_use_id": "c1", "is_error": is_error,
                "content": [{"type": "text", "text": result}],
            },
            {"answers": EventId("c1")},
        ),
        start("r2"),
        ({"id": "m2", "type": "agent.message", "content": [{"type": "text", "text": "Done."}]}, {}),
        end("r2", "end_turn"),
        ({"id": "e3", "type": "session.thread_status_idle", **naming, **stop}, {}),
        ({"id": "e4", "type": "session.usage", "usage": {}}, {}),
        ({"id": "e5", "type": "session.status_idle", **stop}, {}),
    ]  # fmt: skip
    events = [stored(seq, body, thread, **more) for seq, (body, more) in enumerate(rows, start=1)]
    state = begin(record)
    for event in events:
        fold_stored(state, event)
    derived = derive(state, ModelTable.packaged(), needs_brain=False)
    record = replace(
        record,
        last_seq=len(events),
        last_arrival=1,
        status=derived.status,
        usage=derived.usage,
        active_seconds=derived.active_seconds,
        running_since=derived.running_since,
        stop_reason=derived.stop_reason,
        requests_cost=derived.requests_cost,
    )
    bodies = [json.loads(event.body) for event in events]
    echo = {**bodies[2], "processed_at": None}
    shown = [*bodies[:2], echo, *bodies[2:]]
    frames = [Frame(cursor=f"{n}.1", event=body, connection=1) for n, body in enumerate(shown)]
    start_preview = {"type": "event_start", "event": {"type": "agent.message", "id": "m2"}}
    delta = {"type": "event_delta", "event_id": "m2", "delta": {"content": {"type": "text", "text": "Do"}}}
    previews = [Frame(cursor="", event=each, connection=1) for each in (start_preview, delta)]
    return History(
        session_id=record.session_id,
        snapshot=Snapshot(record=record, events=events, inbox=[]),
        sent=[Sent(event_id="m1", event={"type": "user.message", "content": message})],
        listed=bodies,
        usage=dict(derived.usage),
        frames=[*frames[:9], *previews, *frames[9:]],
        ran=[CALL.token],
        outputs=[(CALL.token, f"{CALL.token}\n")],
        calls={CALL.token: CALL},
    )


def stored(seq: int, body: dict[str, Any], thread_id: Any, **more: Any) -> StoredEvent:
    at = BEGAN + timedelta(seconds=seq)
    body = {**body, "processed_at": at.isoformat().replace("+00:00", "Z")}
    return StoredEvent(
        seq=seq, event_id=EventId(body["id"]), type=body["type"], thread_id=thread_id, processed_at=at,
        body=json.dumps(body).encode(), **{"arrival": None, "private": None, "answers": None} | more,
    )  # fmt: skip


def with_events(history: History, change: Callable[[list[StoredEvent]], list[StoredEvent]]) -> History:
    events = change(list(history.events))
    return replace(history, snapshot=replace(history.snapshot, events=events))


def with_record(history: History, **fields: Any) -> History:
    snapshot = history.snapshot
    return replace(history, snapshot=replace(snapshot, record=replace(snapshot.record, **fields)))


def without(event_id: str) -> Callable[[History], History]:
    return lambda history: with_events(history, lambda log: [e for e in log if e.event_id != event_id])


def twice(history: History, event_id: str) -> History:
    def change(log: list[StoredEvent]) -> list[StoredEvent]:
        again = next(e for e in log if e.event_id == event_id)
        return [*log, again._replace(seq=len(log) + 1)]

    return with_events(history, change)


def test_a_good_history_breaks_no_law() -> None:
    assert list(judge(good())) == []


def test_what_ran_since_the_checkpoint_may_be_gone_with_its_host() -> None:
    """The call is done, its line is not there; a later call of the session runs on another host."""
    trouble = Trouble(host_id="host_1", begin=BEGAN, end=BEGAN + timedelta(seconds=60))
    history = replace(good(), ran=[], outputs=[], troubles=[trouble])
    lost = {"results are true", "outputs are kept once"}
    assert {each.law for each in judge(history)} == lost
    use = next(event for event in history.events if event.event_id == "c1")
    moved = {"placement": {"host_id": "host_2", "journal_id": "j"}}
    later = use._replace(seq=99, event_id=EventId("c2"), private=moved)
    history = with_events(history, lambda log: [*log, later])
    assert not lost & {each.law for each in judge(history)}


def test_a_session_that_came_back_with_older_files_says_so() -> None:
    """It was on another host, where no call of it ran, and is on the first one again."""
    trouble = Trouble(host_id="host_1", begin=BEGAN, end=BEGAN + timedelta(seconds=60))
    history = replace(good(), ran=[], troubles=[trouble])
    first = next(event for event in history.events if event.event_id == "a1")

    def told(news: str) -> History:
        body = {**json.loads(first.body), "id": "a2", "content": [{"type": "text", "text": news}]}
        later = first._replace(
            seq=99, event_id=EventId("a2"), answers=EventId("c2"), body=json.dumps(body).encode()
        )
        return with_events(history, lambda log: [*log, later])

    laws = {
        news: {each.law for each in judge(told(news))} for news in (NEWS_KEPT, NEWS_RESTORED, NEWS_LOST)
    }
    assert "results are true" in laws[NEWS_KEPT]
    assert "results are true" not in laws[NEWS_RESTORED] | laws[NEWS_LOST]
    at_peace = replace(told(NEWS_LOST), troubles=[])
    assert "results are true" in {each.law for each in judge(at_peace)}


def test_unknown_is_true_when_the_host_was_in_trouble() -> None:
    trouble = Trouble(host_id="host_1", begin=BEGAN, end=BEGAN + timedelta(seconds=60))
    unknown = replace(good(result=UNKNOWN, is_error=True), troubles=[trouble])
    for ran in ([], [CALL.token]):
        assert list(judge(replace(unknown, ran=ran))) == []
    assert list(judge(replace(unknown, ran=[], outputs=[]))) == []


def test_a_host_that_was_only_silent_loses_no_call() -> None:
    """A call may not have been sent to it; but what was sent has its true result."""
    silent = Trouble(host_id="host_1", begin=BEGAN, end=BEGAN + timedelta(seconds=60), is_silent=True)
    lost = replace(good(result=UNKNOWN, is_error=True), troubles=[silent])
    assert {each.law for each in judge(lost)} == {"results are true"}
    not_sent = replace(good(result=NO_HANDS, is_error=True), ran=[])
    assert {each.law for each in judge(not_sent)} == {"results are true"}
    assert list(judge(replace(not_sent, troubles=[silent]))) == []
    assert {each.law for each in judge(replace(not_sent, troubles=[silent], ran=[CALL.token]))} == {
        "results are true"
    }


def test_what_a_stepped_clock_has_stamped_is_placed_by_when_it_was_shown() -> None:
    """The host was in trouble minutes before the stamps say that the call was made and answered."""
    early = timedelta(seconds=-180)
    trouble = Trouble(host_id="host_1", begin=BEGAN + early, end=BEGAN + early + timedelta(seconds=60))
    history = replace(good(result=UNKNOWN, is_error=True), troubles=[trouble])
    assert {each.law for each in judge(history)} == {"results are true"}
    shown_at = (BEGAN + early + timedelta(seconds=30)).timestamp()
    frames = [replace(frame, at=shown_at) for frame in history.frames or ()]
    assert list(judge(replace(history, frames=frames))) == []


BROKEN: dict[str, tuple[str, Callable[[History], History]]] = {
    "an event is missing": ("seqs are gap-free", without("m2")),
    "an event is there twice": ("seqs are gap-free", lambda h: twice(h, "m2")),
    "the end of the turn is missing": ("the order is legal", without("e5")),
    "the session runs for ever": ("every turn has ended", lambda h: with_record(h, status="running")),
    "an input was never taken": (
        "every turn has ended",
        lambda h: replace(
            h,
            snapshot=replace(
                h.snapshot,
                inbox=[
                    InboxEntry(
                        arrival=2, event_id=EventId("m9"), type="user.message",
                        thread_id=h.snapshot.record.primary_thread_id, body=b"{}",
                    )
                ],
            ),
        ),
    ),
    "an acknowledged input is gone": ("nothing acknowledged is missing", without("m1")),
    "an input that nobody sent": ("nothing acknowledged is missing", lambda h: replace(h, sent=[])),
    "an input has changed": (
        "nothing acknowledged is missing",
        lambda h: replace(h, sent=[replace(h.sent[0], event={"type": "user.message", "content": []})]),
    ),
    "a request has no end": ("requests have ends", without("end r1")),
    "a call has no answer": ("every call is answered once", without("a1")),
    "a call is answered twice": ("every call is answered once", lambda h: twice(h, "a1")),
    "a call ran twice": ("no call runs twice", lambda h: replace(h, ran=[CALL.token] * 2)),
    "something ran that nobody asked for": (
        "no call runs twice", lambda h: replace(h, ran=[*(h.ran or ()), "t9"]),
    ),
    "done, and it did not run": ("results are true", lambda h: replace(h, ran=[])),
    "another call's result": ("results are true", lambda h: good(result="done t9\n")),
    "unknown, and its host lived": ("results are true", lambda h: good(result=UNKNOWN, is_error=True)),
    "unknown, and another host died": (
        "results are true",
        lambda h: replace(
            good(result=UNKNOWN, is_error=True),
            troubles=[Trouble(host_id="host_2", begin=BEGAN, end=BEGAN + timedelta(seconds=60))],
        ),
    ),
    "interrupted by nobody": (
        "results are true",
        lambda h: good(
            result="Tool execution was interrupted before completion. Please retry.", is_error=True
        ),
    ),
    "denied by nobody": (
        "results are true", lambda h: good(result="Tool call was rejected by the user.", is_error=True),
    ),
    "an output is gone": ("outputs are kept once", lambda h: replace(h, outputs=[])),
    "an output is there twice": (
        "outputs are kept once", lambda h: replace(h, outputs=[*(h.outputs or ())] * 2),
    ),
    "an output is empty": ("outputs are kept once", lambda h: replace(h, outputs=[(CALL.token, "")])),
    "an output that nobody made": (
        "outputs are kept once", lambda h: replace(h, outputs=[*(h.outputs or ()), ("t9", "t9\n")]),
    ),
    "an echo is missing": (
        "echo and event are pairs",
        lambda h: replace(
            h, frames=[f for f in h.frames or () if f.event.get("processed_at", "") is not None]
        ),
    ),
    "a stream missed an event": ("streams show the log", lambda h: replace(h, frames=(h.frames or ())[1:])),
    "a stream showed an event twice": (
        "streams show the log", lambda h: replace(h, frames=[*(h.frames or ()), (h.frames or ())[0]]),
    ),
    "a preview is of another text": (
        "streams show the log",
        lambda h: replace(
            h,
            frames=[
                *(h.frames or ()),
                Frame(
                    cursor="", connection=1,
                    event={"type": "event_delta", "event_id": "m2", "delta": {"content": {"text": "No"}}},
                ),
            ],
        ),
    ),
    "the list is short": ("lists show the log", lambda h: replace(h, listed=(h.listed or ())[:-1])),
    "usage was counted twice": (
        "usage is counted once", lambda h: replace(h, usage={**(h.usage or {}), "input_tokens": 75}),
    ),
    "a column differs from the fold": (
        "columns repeat the fold", lambda h: with_record(h, active_seconds=99.0),
    ),
    "a private field is shown": (
        "nothing private is shown",
        lambda h: with_events(
            h, lambda log: [log[0]._replace(body=log[0].body[:-1] + b',"private":{}}'), *log[1:]]
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_caught(name: str) -> None:
    law, breaking = BROKEN[name]
    broken = list(judge(breaking(good())))
    assert law in {each.law for each in broken}, broken


def test_every_law_catches_something() -> None:
    assert {law for law, _ in BROKEN.values()} == set(LAWS)
