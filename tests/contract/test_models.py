"""The Model port, on real adapters: a real socket, the real SDK, real streams."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from corral.brain.models.anthropic import AnthropicModel
from corral.brain.ports import ModelFailed, ModelReply, ModelRequest, Usage
from corral.catalog.models import ModelTable
from corral.kernel.ids import SessionId
from corral.testing.contract_model import check_abort, check_close, check_reply, collect
from corral.testing.messages_api import MessagesApi, by_turn
from corral.testing.messages_reply import HttpError, Reply

MODELS = ModelTable.packaged()
KEY = "sk-ant-test-canary-0123456789"


def request(**changes: object) -> ModelRequest:
    fields = {
        "model": "claude-opus-5-5",
        "session_id": SessionId("sesn_1"),
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Fix the bug."}]}],
        "max_tokens": 1000,
    }
    return ModelRequest(**(fields | changes))  # type: ignore[arg-type]


RICH = Reply(
    content=[
        {"type": "thinking", "thinking": "Zuerst die Tests lesen. ✓", "signature": "EqQBCgIYAhIM" * 9},
        {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"},
        {"type": "text", "text": 'Ich schaue nach: "ä\\n" and \u2028 a separator. \n', "citations": []},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "holographic_plan", "layers": [{"deep": {"a": [1, 2.5, None, True]}}], "data": "opaque"},
        {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "printf 'a\\tb' # ü"}},
        {"type": "tool_use", "id": "toolu_2", "name": "read", "input": {}, "caller": {"type": "direct"}},
    ],
    stop_reason="tool_use",
    usage={
        "input_tokens": 7,
        "output_tokens": 210,
        "cache_read_input_tokens": 4000,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    },
)


@pytest.fixture
async def api() -> AsyncIterator[MessagesApi]:
    async with MessagesApi(api_key=KEY) as api:
        yield api


@pytest.fixture
async def model(api: MessagesApi) -> AsyncIterator[AnthropicModel]:
    model = AnthropicModel(api_key=KEY, base_url=api.url, models=MODELS, silence_seconds=60)
    yield model
    await model.aclose()


@pytest.fixture
def late_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stood still for a moment waits for the end of a stream all the same."""
    monkeypatch.setattr("corral.brain.models.anthropic.MODEL_DRAIN_SECONDS", 60.0)


# -- replies ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("delta_chars", [None, 1, 7, 10_000])
async def test_every_block_comes_back_verbatim(api, model, delta_chars):
    reply = Reply(**{**vars_of(RICH), "delta_chars": delta_chars})
    api.script = [reply]
    got = await check_reply(model, request())
    assert list(got.content) == list(RICH.content)
    assert got.stop_reason == "tool_use"
    assert got.usage == Usage(
        input_tokens=7,
        output_tokens=210,
        cache_read_input_tokens=4000,
        cache_creation_5m_input_tokens=100,
        cache_creation_1h_input_tokens=200,
        web_search_requests=2,
    )


def vars_of(reply: Reply) -> dict[str, object]:
    return {name: getattr(reply, name) for name in Reply.__dataclass_fields__}


@pytest.mark.parametrize(
    "stop_reason", ["end_turn", "max_tokens", "pause_turn", "model_context_window_exceeded", "a_later_word"]
)
async def test_stop_reasons_pass_through(api, model, stop_reason):
    api.script = [Reply(stop_reason=stop_reason)]
    assert (await check_reply(model, request())).stop_reason == stop_reason


async def test_a_refusal_keeps_its_details(api, model):
    details = {"type": "refusal", "category": "cyber", "explanation": "No."}
    api.script = [Reply(content=[], stop_reason="refusal", stop_details=details)]
    reply = await check_reply(model, request())
    assert (reply.content, reply.stop_reason, reply.stop_details) == ([], "refusal", details)


async def test_a_tool_call_cut_by_max_tokens_is_harmless(api, model):
    """The input is not JSON any more; the loop never executes it, and the conversation stays sendable."""
    stream = Reply(
        content=[{"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "x" * 40}}],
        stop_reason="max_tokens",
    )
    events = [event for event in stream.events if b'xxx"}' not in event and b'"}"}' not in event]
    stream.__dict__["stream"] = b"".join(events)
    api.script = [stream]
    reply = (await collect(model, request()))[-1]
    assert isinstance(reply, ModelReply)
    assert reply.content == [{"type": "tool_use", "id": "t", "name": "bash", "input": {}}]


async def test_the_contract(api, model):
    reply = Reply(content=[{"type": "text", "text": "word " * 40}])
    api.script = lambda _: reply
    await check_reply(model, request())
    await check_abort(model, request())
    await check_close(model)


async def test_many_at_once(api, model):
    api.script = lambda r: Reply.text(r.json["messages"][0]["content"][0]["text"])
    texts = [f"session {n}" for n in range(40)]

    async def ask(text: str) -> ModelReply:
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return await check_reply(model, request(messages=messages))

    replies = await asyncio.gather(*(ask(text) for text in texts))
    assert [reply.content[0]["text"] for reply in replies] == texts


@pytest.mark.usefixtures("late_end")
async def test_connections_are_reused(api, model):
    reply = Reply()
    api.script = lambda _: reply
    for _ in range(5):
        await check_reply(model, request())
    assert api.accepted == 1


@pytest.mark.usefixtures("late_end")
async def test_a_connection_is_reused_by_those_who_stop_at_the_reply(api, model):
    """As the loop reads: nothing after the reply is waited for."""
    api.script = lambda _: Reply.text("hi")
    for _ in range(5):
        async with aclosing(model.stream(request())) as stream:
            async for event in stream:
                if isinstance(event, ModelReply):
                    break
    assert api.accepted == 1


# -- what is sent ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"thinking": {"type": "adaptive"}, "max_tokens": 1000, "stream": True}),
        ({"effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ({"inference_geo": "us"}, {"inference_geo": "us"}),
        ({"speed": "fast"}, {"speed": "fast"}),
        ({"metadata": {"user_id": "u", "other": "x"}}, {"metadata": {"user_id": "u"}}),
        (
            {"model": "claude-haiku-4-5-20251001", "max_tokens": 32_000},
            {"thinking": {"type": "enabled", "budget_tokens": 8000}, "max_tokens": 32_000},
        ),
        ({"model": "claude-haiku-4-5", "max_tokens": 1024}, {"thinking": None}),
        ({"system": [{"type": "text", "text": "s"}]}, {"system": [{"type": "text", "text": "s"}]}),
    ],
)
async def test_request_fields(api, model, changes, expected):
    api.script = [Reply()]
    await check_reply(model, request(**changes))
    sent = (await api.request(1)).json
    assert {name: sent.get(name) for name in expected} == expected
    optional = {"output_config", "inference_geo", "speed", "metadata", "system", "tools"}
    assert not (optional - set(expected)) & set(sent), "nothing is sent that was not asked for"


async def test_fast_needs_its_beta_header(api, model):
    api.script = [Reply()]
    await check_reply(model, request(speed="fast"))
    assert (await api.request(1)).headers["anthropic-beta"] == "fast-mode-2026-02-01"


async def test_what_the_model_cannot_do_is_not_sent(api, model):
    with pytest.raises(ModelFailed, match="does not support speed 'fast'") as caught:
        await collect(model, request(model="claude-sonnet-5-5", speed="fast"))
    assert not caught.value.retryable
    assert api.count == 0


async def test_private_blocks_go_back_byte_for_byte(api, model):
    api.script = [RICH, Reply()]
    first = await check_reply(model, request())
    results = [{"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "ok"} for n in (1, 2)]
    conversation = [
        *request().messages,
        {"role": "assistant", "content": list(first.content)},
        {"role": "user", "content": results},
    ]
    await check_reply(model, request(messages=conversation))
    assert (await api.request(2)).json["messages"][1]["content"] == list(RICH.content)


# -- the environment -------------------------------------------------------------------------------
async def test_nothing_is_read_from_the_environment(api, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9/never")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "corral_key_of_the_client")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-from-the-environment")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-leak: secret")
    api.script = [Reply()]
    model = AnthropicModel(api_key=KEY, base_url=api.url, models=MODELS)
    await check_reply(model, request())
    await model.aclose()
    sent = await api.request(1)
    assert sent.api_key == KEY
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["user-agent"].startswith("corral/")
    assert "x-leak" not in sent.headers
    assert "token-from" not in str(sent.headers)


@pytest.mark.parametrize(
    ("api_key", "advice"),
    [
        (None, "set CORRAL_ANTHROPIC_API_KEY"),
        ("", "set CORRAL_ANTHROPIC_API_KEY"),
        ("corral_sk_1", "key of Corral itself"),
    ],
)
async def test_without_a_usable_key_nothing_is_sent(api, api_key, advice):
    model = AnthropicModel(api_key=api_key, base_url=api.url, models=MODELS)
    assert model.problem is not None
    with pytest.raises(ModelFailed, match=advice) as caught:
        await collect(model, request())
    assert not caught.value.retryable
    assert "corral_sk_1" not in str(caught.value)
    assert api.count == 0


# -- failures --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "failure", "retryable", "wait"),
    [
        (HttpError(status=400), "request_failed", False, None),
        (HttpError.prompt_too_long(), "context_overflow", False, None),
        (
            HttpError(status=400, message="input length and `max_tokens` exceed context limit: 1 + 2 > 2"),
            "context_overflow",
            False,
            None,
        ),
        (HttpError(status=400, message="Your credit balance is too low to access"), "billing", False, None),
        (HttpError(status=401), "request_failed", False, None),
        (HttpError(status=402), "billing", False, None),
        (HttpError(status=403), "request_failed", False, None),
        (HttpError(status=404), "request_failed", False, None),
        (HttpError(status=408), "request_failed", True, None),
        (HttpError(status=409), "request_failed", True, None),
        (HttpError(status=413), "context_overflow", False, None),
        (HttpError(status=429, headers={"retry-after": "7"}), "rate_limited", True, 7.0),
        (HttpError(status=429, headers={"retry-after-ms": "1500"}), "rate_limited", True, 1.5),
        (HttpError(status=429, headers={"x-should-retry": "false"}), "rate_limited", False, None),
        (HttpError(status=500), "request_failed", True, None),
        (HttpError(status=502, raw_body=b"<html>Bad gateway</html>"), "request_failed", True, None),
        (HttpError(status=502, raw_body=b"x" * 2**20), "request_failed", True, None),
        (HttpError(status=503), "request_failed", True, None),
        (HttpError(status=504), "request_failed", True, None),
        (HttpError(status=529, headers={"retry-after": "0"}), "overloaded", True, 0.0),
    ],
)
async def test_http_errors(api, model, error, failure, retryable, wait):
    api.script = [error]
    with pytest.raises(ModelFailed) as caught:
        await collect(model, request())
    raised = caught.value
    assert (raised.failure, raised.retryable, raised.retry_after_seconds) == (failure, retryable, wait)
    assert "req_fake00000001" in raised.message
    assert "html" not in raised.message
    assert api.count == 1, "the adapter never retries"


async def test_the_key_is_not_carried_to_where_a_redirect_points(api, model):
    api.script = [HttpError(status=307, headers={"location": api.url}, raw_body=b"moved"), Reply()]
    with pytest.raises(ModelFailed, match="307") as caught:
        await collect(model, request())
    assert not caught.value.retryable
    assert api.count == 1


async def test_a_page_instead_of_a_stream_is_a_broken_stream(api, model):
    api.script = [HttpError(status=200, raw_body=b"<html>Log in</html>")]
    with pytest.raises(ModelFailed, match="malformed") as caught:
        await collect(model, request())
    assert caught.value.retryable


async def test_an_error_that_repeats_the_key_is_redacted(api, model):
    api.script = [HttpError(status=401, message=f"invalid x-api-key {KEY}")]
    with pytest.raises(ModelFailed) as caught:
        await collect(model, request())
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "failure", "retryable"),
    [
        ("overloaded_error", "overloaded", True),
        ("rate_limit_error", "rate_limited", True),
        ("api_error", "request_failed", True),
        ("timeout_error", "request_failed", True),
        ("invalid_request_error", "request_failed", False),
        ("authentication_error", "request_failed", False),
        ("a_later_error", "request_failed", True),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 5])
async def test_errors_in_mid_stream(api, model, kind, failure, retryable, after):
    api.script = [Reply(content=RICH.content, error_after=(after, kind, "Something broke"))]
    with pytest.raises(ModelFailed, match="Something broke") as caught:
        await collect(model, request())
    assert (caught.value.failure, caught.value.retryable) == (failure, retryable)


@pytest.mark.parametrize("cut", ["reset", "end"])
async def test_a_stream_cut_after_any_byte_is_never_a_reply(api, model, cut):
    whole = Reply(
        content=[
            {"type": "thinking", "thinking": "Hm ü", "signature": "sig"},
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
        ],
        stop_reason="tool_use",
        delta_chars=100,
    )
    length = len(whole.stream)
    api.script = lambda r: Reply(
        **{**vars_of(whole), "cut": cut, "cut_after_bytes": int(r.json["metadata"]["user_id"])}
    )

    async def cut_after(bytes_sent: int) -> None:
        with pytest.raises(ModelFailed) as caught:
            await collect(model, request(metadata={"user_id": str(bytes_sent)}))
        assert caught.value.retryable
        assert caught.value.failure == "request_failed"

    for start in range(0, length, 50):
        await asyncio.gather(*(cut_after(n) for n in range(start, min(start + 50, length))))
    reply = (await collect(model, request(metadata={"user_id": str(length)})))[-1]
    assert isinstance(reply, ModelReply), "only the last byte makes it a reply"


async def test_a_slow_drip_is_a_reply(api, model):
    api.script = [Reply(**{**vars_of(RICH), "drip_bytes": 11, "drip_seconds": 0.0001})]
    assert list((await check_reply(model, request())).content) == list(RICH.content)


@pytest.mark.parametrize("after", [0, 400])
async def test_silence_is_a_broken_stream(api, after):
    api.script = [Reply(content=RICH.content, hang_after_bytes=after)]
    model = AnthropicModel(api_key=KEY, base_url=api.url, models=MODELS, silence_seconds=0.2)
    with pytest.raises(ModelFailed, match="sent nothing for too long") as caught:
        await collect(model, request())
    assert caught.value.retryable
    await asyncio.wait_for((await api.request(1)).closed.wait(), 60)
    await model.aclose()


async def test_silence_before_the_first_byte(api):
    api.script = [Reply(first_seconds=30)]
    model = AnthropicModel(api_key=KEY, base_url=api.url, models=MODELS, silence_seconds=0.2)
    with pytest.raises(ModelFailed, match="sent nothing for too long"):
        await collect(model, request())
    await model.aclose()


async def test_nobody_listens():
    model = AnthropicModel(api_key=KEY, base_url="http://127.0.0.1:9", models=MODELS)
    with pytest.raises(ModelFailed, match="could not be reached") as caught:
        await collect(model, request())
    assert caught.value.retryable
    await model.aclose()


# -- leaving ---------------------------------------------------------------------------------------
async def test_closing_the_iterator_aborts_the_request(api, model):
    api.script = [Reply(content=[{"type": "text", "text": "x" * 500}], hang_after_bytes=2000)]
    stream = model.stream(request())
    async with aclosing(stream):
        async for _ in stream:
            break
    sent = await api.request(1)
    await asyncio.wait_for(sent.closed.wait(), 60)
    assert sent.is_aborted


async def test_cancelling_the_reader_aborts_the_request(api, model):
    api.script = [Reply(first_seconds=60)]
    reader = asyncio.create_task(collect(model, request()))
    sent = await api.request(1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await asyncio.wait_for(sent.closed.wait(), 60)
    assert sent.is_aborted


# -- the fake itself -------------------------------------------------------------------------------
async def test_the_official_streaming_helper_understands_the_fake(api):
    """The fake's stream, through the SDK's own accumulator: it is the real format."""
    import anthropic

    known = [block for block in RICH.content if block["type"] != "holographic_plan"]
    api.script = [Reply(**{**vars_of(RICH), "content": known})] * 2
    question = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=api.url, max_retries=0) as client:
        async with client.messages.stream(**question) as stream:
            streamed = await stream.get_final_message()
        whole = await client.messages.create(**question)
    for message in (streamed, whole):
        assert [block.to_dict() for block in message.content] == known
        assert message.usage.cache_creation.ephemeral_1h_input_tokens == 200
        assert message.usage.server_tool_use.web_search_requests == 2
        assert message.stop_reason == "tool_use"


USE = {"type": "tool_use", "id": "t", "name": "bash", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "ok"}
TEXT = {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ([[TEXT]], None),
        ([[TEXT], [USE], [RESULT, TEXT]], None),
        ([[]], "non-empty content"),
        ([[{"type": "text", "text": ""}]], "text content blocks must be non-empty"),
        ([[{"type": "text", "text": " \n"}]], "must contain non-whitespace text"),
        ([[TEXT], [USE]], "without `tool_result` blocks immediately after: t"),
        ([[TEXT], [USE], [TEXT]], "without `tool_result` blocks immediately after: t"),
        ([[RESULT]], "unexpected `tool_use_id`"),
        ([[TEXT], [USE], [TEXT, RESULT]], "must come before other content"),
        ([[TEXT], [USE], [RESULT, RESULT]], "single result"),
        ([[TEXT], [USE], [RESULT], [USE], [RESULT]], "ids must be unique"),
        ([[{**TEXT, "cache_control": {}}] * 5], "maximum of 4 blocks with cache_control"),
    ],
)
async def test_the_fake_refuses_what_the_api_refuses(api, model, blocks, complaint):
    api.script = [Reply()]
    roles = ["user", "assistant"] * len(blocks)
    messages = [{"role": role, "content": content} for role, content in zip(roles, blocks, strict=False)]
    if complaint is None:
        await check_reply(model, request(messages=messages))
    else:
        with pytest.raises(ModelFailed, match=complaint) as caught:
            await collect(model, request(messages=messages))
        assert not caught.value.retryable


async def test_a_script_by_turn_and_its_end(api, model):
    api.script = by_turn([Reply.tools(("t", "bash", {"command": "ls"}), say="Look."), Reply.text("Done.")])
    turn: list[object] = list(request().messages)
    for _ in range(2):
        assert (await check_reply(model, request(messages=turn))).stop_reason == "tool_use"
    turn += [{"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]
    assert (await check_reply(model, request(messages=turn))).content[0]["text"] == "Done."
    turn += [{"role": "assistant", "content": [TEXT]}, {"role": "user", "content": [TEXT]}]
    with pytest.raises(ModelFailed, match="only 2 replies"):
        await collect(model, request(messages=turn))


async def test_the_fake_as_a_command():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "corral.testing.messages_api", "--text", "Hello."),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        model = AnthropicModel(api_key=KEY, base_url=url, models=MODELS)
        assert (await check_reply(model, request())).content[0]["text"] == "Hello."
        await model.aclose()
    finally:
        process.kill()
        await process.wait()
