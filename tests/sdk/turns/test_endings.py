"""How a turn can end: refusal, limits, failures of the provider; and what its figures say."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from corral.catalog.models import ModelTable, whole_cents
from corral.testing.messages_reply import HttpError, Reply
from tests.served import text
from tests.stage import LOOKUP, MODEL, TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

START, FINISH = "span.model_request_start", "span.model_request_end"
END = ["session.thread_status_idle", "session.usage", "session.status_idle"]
BEGIN = ["session.status_running", "session.thread_status_running", "user.message"]
RETRY = [
    *(START, FINISH, "session.error", "session.status_rescheduled", "session.thread_status_rescheduled"),
    *("session.status_running", "session.thread_status_running"),
]
NOW = {"retry-after-ms": "1"}  # the provider says when; a backoff of our own is at least half a second


async def test_refusal(stage: Stage) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "No."}
    stage.play(
        Reply(content=[{"type": "text", "text": "I"}], stop_reason="refusal", stop_details=details),
        Reply.text("Gladly."),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Bad."))
        idle = await tail.idle()
        await stage.send(session.id, text("Good."))
        await tail.idle(2)
    assert idle.stop_reason.type == "refusal"
    assert idle.stop_details.to_dict() == details
    thread_idle = await tail.until("session.thread_status_idle")
    assert (thread_idle.stop_reason.type, thread_idle.stop_details.category) == ("refusal", "cyber")
    # A refused reply in the context would make the next one refuse.
    assert [m["role"] for m in stage.requests[1].json["messages"]] == ["user"]


async def test_refusal_without_details(stage: Stage) -> None:
    stage.play(Reply(content=[], stop_reason="refusal"))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Bad."))
        idle = await tail.idle()
    assert (idle.stop_details.category, idle.stop_details.explanation) == (None, None)


async def test_a_tool_call_cut_by_max_tokens_is_never_run(stage: Stage) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "touch never"}}
    stage.play(
        Reply(content=[{"type": "text", "text": "So:"}, call], stop_reason="max_tokens"),
        Reply(content=[call], stop_reason="max_tokens"),
        Reply.text("Shorter."),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        assert (await tail.idle()).stop_reason.type == "end_turn"
        await stage.send(session.id, text("Again."))
        await tail.idle(2)
        await stage.send(session.id, text("Shorter!"))
        await tail.idle(3)
    assert not tail.of("agent.tool_use")
    assert not stage.server.workspace(session.id).joinpath("never").exists()
    assert "tool_use" not in str(stage.requests[2].json["messages"])
    roles = [m["role"] for m in stage.requests[2].json["messages"]]
    assert roles == ["user", "assistant", "user"]


async def test_pause_turn_goes_on_with_the_reply_unchanged(stage: Stage) -> None:
    searching = [
        {"type": "text", "text": "Searching."},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "corral"}},
    ]
    go = asyncio.Event()
    stage.play(
        Reply(content=searching, stop_reason="pause_turn", held_until=go),
        Reply.text("Found."),
        Reply.text("And you."),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Search."))
        await stage.asked(1)
        await stage.send(session.id, text("Meanwhile."))  # may not come between the search and its result
        go.set()
        await tail.idle()
    last = stage.requests[1].json["messages"][-1]
    assert last["role"] == "assistant"
    assert [{k: v for k, v in b.items() if k != "cache_control"} for b in last["content"]] == searching
    assert [m["role"] for m in stage.requests[2].json["messages"]] == ["user", "assistant", "user"]
    assert tail.types.count("session.status_idle") == 1


# -- failures of the provider -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error_type"),
    [
        (HttpError(status=429, headers=NOW), "model_rate_limited_error"),
        (HttpError(status=529, headers=NOW), "model_overloaded_error"),
        (HttpError(status=500, headers=NOW), "model_request_failed_error"),
        (HttpError(status=502, headers=NOW, raw_body=b"<html>Bad</html>"), "model_request_failed_error"),
    ],
    ids=["429", "529", "500", "502-page"],
)
async def test_a_passing_failure_is_retried_visibly(stage: Stage, fault: Any, error_type: str) -> None:
    stage.play(fault, Reply.text("Back."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("session.status_rescheduled")
        await stage.send(session.id, text("Meanwhile."))
        await tail.idle()
    middle = [*RETRY, "user.message", START]
    assert tail.types == [*BEGIN, *middle, "agent.message", FINISH, *END]
    error = (await tail.until("session.error")).error
    assert (error.type, error.retry_status.type) == (error_type, "retrying")
    assert [end.is_error for end in tail.of(FINISH)] == [True, False]
    assert stage.requests[1].json["messages"][0]["content"][0]["text"] == "Go."


async def test_a_failure_in_mid_stream_leaves_no_half_reply(stage: Stage) -> None:
    reply = Reply(content=[*Reply.text("Half of this, then nothing.").content], delta_chars=3)
    stage.play(
        Reply(content=reply.content, delta_chars=3, error_after=(6, "overloaded_error", "Overloaded")),
        Reply.text("Whole."),
    )
    session = await stage.session()
    async with stage.watch(session.id, event_deltas=["agent.message"]) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle(seconds=30)
    started = [event.event.id for event in tail.of("event_start")]
    (message,) = tail.of("agent.message")
    assert len(started) == 2 and message.id == started[1], "the first preview stays without its event"
    assert words(message) == "Whole."
    assert (await tail.until("session.error")).error.type == "model_overloaded_error"


async def test_a_stream_cut_anywhere_is_asked_again(stage: Stage) -> None:
    """A sample of offsets, the sessions side by side; the adapter's own test tries each byte."""
    call = Reply.tools(("toolu_1", "bash", {"command": "echo ran >> ran"}), say="Let me.")
    stream = call.stream
    boundaries = [0]
    for event in call.events:
        boundaries.append(boundaries[-1] + len(event))
    cuts = sorted({1, *boundaries[1:-1:3], boundaries[-2] + 9, len(stream) - 1} - {0})
    asked: dict[str, int] = {}

    def script(request: Any) -> Any:
        prompt = request.json["messages"][0]["content"][0]["text"]
        number, how = prompt.split()
        asked[prompt] = asked.get(prompt, 0) + 1
        if asked[prompt] == 1:
            return Reply(content=call.content, stop_reason="tool_use", cut_after_bytes=int(number), cut=how)
        return call if request.turns == 0 else Reply.text("Done.")

    stage.script = script
    sessions = {}
    for number, cut in enumerate(cuts):
        how = ("reset", "end")[number % 2]
        session = await stage.session(initial_events=[text(f"{cut} {how}")])
        sessions[session.id] = cut
    for session_id in sessions:
        await stage.rests(session_id)
        history = await stage.history(session_id)
        kinds = [event.type for event in history]
        assert kinds.count("agent.tool_use") == kinds.count("agent.tool_result") == 1
        assert kinds.count("session.error") == 1 and kinds.count("agent.message") == 2
        assert stage.server.workspace(session_id).joinpath("ran").read_text() == "ran\n"


@pytest.mark.parametrize(
    ("fault", "error_type", "said"),
    [
        (HttpError(status=400), "model_request_failed_error", "400"),
        (HttpError(status=401), "model_request_failed_error", "401"),
        (HttpError(status=402), "billing_error", "credit"),
        (HttpError(status=413), "model_request_failed_error", "413"),
        (HttpError.prompt_too_long(), "model_request_failed_error", "too long"),
        (HttpError(status=429, headers={"retry-after": "9999"}), "model_rate_limited_error", "429"),
    ],
    ids=["400", "401", "402", "413", "overflow", "wait-too-long"],
)
async def test_a_permanent_failure_ends_the_turn_and_not_the_session(
    stage: Stage, fault: HttpError, error_type: str, said: str
) -> None:
    stage.play(fault, Reply.text("Better."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        idle = await tail.idle()
        assert idle.stop_reason.type == "retries_exhausted"
        assert tail.types == [*BEGIN, START, FINISH, "session.error", *END]
        error = (await tail.until("session.error")).error
        assert (error.type, error.retry_status.type) == (error_type, "exhausted")
        assert said in error.message and "req_fake" in error.message
        assert "upstream-key" not in error.message
        await stage.send(session.id, text("Once more."))
        assert (await tail.idle(2)).stop_reason.type == "end_turn"


async def test_what_was_queued_is_flushed_when_the_turn_dies(stage: Stage) -> None:
    go = asyncio.Event()
    stage.play(Reply(held_until=go, error_after=(0, "invalid_request_error", "no")), Reply.text("Anew."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await stage.asked(1)
        await stage.send(session.id, text("Queued."))
        go.set()
        assert (await tail.idle()).stop_reason.type == "retries_exhausted"
        assert tail.types == [*BEGIN, START, FINISH, "session.error", "user.message", *END]
        await stage.send(session.id, text("Next."))
        await tail.idle(2)
    said = [block["text"] for block in stage.requests[1].json["messages"][0]["content"]]
    assert said == ["Go.", "Next."] and len(stage.requests) == 2


async def test_a_slow_drip_is_a_reply(stage: Stage) -> None:
    reply = Reply.text("Drop by drop.")
    step = len(reply.stream) // 40
    stage.play(Reply(content=reply.content, drip_bytes=step, drip_seconds=0.005))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    assert words(await tail.until("agent.message")) == "Drop by drop."


# -- figures ------------------------------------------------------------------------------------------


async def test_usage_and_cost_are_exact(stage: Stage) -> None:
    first = {
        "input_tokens": 1_000_000,
        "output_tokens": 30_000,
        "cache_read_input_tokens": 70_000,
        "cache_creation_input_tokens": 9_000,
        "cache_creation": {"ephemeral_5m_input_tokens": 5_000, "ephemeral_1h_input_tokens": 4_000},
    }
    second = {"input_tokens": 11, "output_tokens": 7}
    tools = Reply.tools(("toolu_1", "bash", {"command": "true"}))
    stage.play(
        Reply(content=tools.content, stop_reason="tool_use", usage=first),
        Reply(content=Reply.text("Done.").content, usage=second),
    )
    session = await stage.session()
    assert session.usage.cache_creation is None
    assert session.usage.list_cost.amount == "0" and session.stats.active_seconds == 0
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    ends = [end.model_usage for end in tail.of(FINISH)]
    assert (ends[0].input_tokens, ends[0].cache_read_input_tokens) == (1_000_000, 70_000)
    assert (ends[0].cache_creation_input_tokens, ends[1].output_tokens) == (9_000, 7)
    assert ends[0].speed == "standard"

    now = await stage.client.beta.sessions.retrieve(session.id)
    reported = (await tail.until("session.usage")).usage
    assert now.usage.to_dict() | {"active_seconds": 0} == reported.to_dict() | {"active_seconds": 0}
    assert abs(reported.active_seconds - now.usage.active_seconds) < 0.01
    assert (reported.input_tokens, reported.output_tokens) == (1_000_011, 30_007)
    assert reported.cache_read_input_tokens == 70_000
    assert reported.cache_creation.to_dict() == {
        "ephemeral_5m_input_tokens": 5_000,
        "ephemeral_1h_input_tokens": 4_000,
    }
    assert reported.server_tool_use.web_search_requests == 0
    price = ModelTable.packaged().resolve(MODEL).price
    assert price is not None
    dollars = (
        price.input * 1_000_011
        + price.output * 30_007
        + price.cache_read * 70_000
        + price.cache_write_5m * 5_000
        + price.cache_write_1h * 4_000
    ) / 1_000_000
    runtime = Decimal("0.08") * Decimal(str(round(reported.active_seconds, 3))) / 3600
    assert reported.list_cost.amount == whole_cents((dollars + runtime) * 100_000_000)
    assert reported.list_cost.currency == "USD"

    # Running time is what the log says: from running to idle.
    history = await stage.history(session.id)
    at = {event.type: event.processed_at for event in history}
    busy = (at["session.status_idle"] - at["session.status_running"]) / timedelta(seconds=1)
    assert now.stats.active_seconds == pytest.approx(busy, abs=0.01)
    assert now.stats.duration_seconds >= now.stats.active_seconds


async def test_a_model_without_a_price_works_and_costs_only_its_running_time(stage: Stage) -> None:
    usage = {"input_tokens": 50_000_000, "output_tokens": 1}
    stage.play(Reply(content=Reply.text("Hi.").content, usage=usage))
    session = await stage.session(model="claude-next-9")
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    usage_event = await tail.until("session.usage")
    assert usage_event.usage.input_tokens == 50_000_000
    assert usage_event.usage.list_cost.amount == "0"


async def test_failed_and_interrupted_requests_cost_nothing(stage: Stage) -> None:
    reply = Reply.text("A long answer.")
    stage.play(HttpError(status=400), Reply(content=reply.content, hang_after_bytes=len(reply.stream) // 2))
    session = await stage.session(TOOLSET, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        await stage.send(session.id, text("Again."))
        await stage.asked(2)
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.idle(2)
    assert [end.model_usage.input_tokens for end in tail.of(FINISH)] == [0, 0]
    assert tail.of("session.usage")[-1].usage.input_tokens == 0


async def test_threads_during_a_turn(stage: Stage) -> None:
    stage.play(
        Reply.tools(("toolu_1", "bash", {"command": "until [ -e go ]; do :; done"})), Reply.text("Hi.")
    )
    session = await stage.session()
    threads = stage.client.beta.sessions.threads
    (thread,) = [each async for each in threads.list(session.id)]
    assert (thread.status, thread.stats, thread.usage, thread.parent_thread_id) == (
        "idle",
        None,
        None,
        None,
    )
    stream = await threads.events.stream(thread.id, session_id=session.id)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("agent.tool_use")
        during = await threads.retrieve(thread.id, session_id=session.id)
        assert (during.status, during.usage) == ("running", None)
        assert during.stats is not None and during.stats.active_seconds >= 0
        await stage.touch(session.id, "go")
        await tail.idle()
    seen = []
    async for event in stream:
        seen.append(event)
        if event.type == "session.status_idle":
            break
    await stream.close()
    # The primary thread's own stream and list are the session's.
    assert [event.id for event in seen] == [event.id for event in tail.events]
    after = await threads.retrieve(thread.id, session_id=session.id)
    assert (after.status, after.usage.output_tokens) == ("idle", 24)
    listed = [event.id async for event in threads.events.list(thread.id, session_id=session.id)]
    assert listed == [event.id for event in await stage.history(session.id)]
