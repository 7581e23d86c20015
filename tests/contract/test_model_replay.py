"""The Model port, played from a recording."""

import asyncio
import json
import time

import pytest

from corral.brain.models.replay import ReplayModel
from corral.brain.ports import ModelFailed, ModelRequest, TextDelta, Usage
from corral.kernel.ids import SessionId
from corral.testing.contract_model import check_abort, check_close, check_reply, collect

CALL = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}}
RECORDING = {
    "format": 1,
    "label": "some-model on 2026-11-20",
    "model": "some-model",
    "task": "List the files.",
    "replies": [
        {
            "content": [
                {"type": "thinking", "thinking": "Look first.", "signature": "sig=="},
                {"type": "text", "text": "I look at the files first, and then I say what is there."},
                CALL,
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 5, "output_tokens": 7},
        },
        {"content": [{"type": "text", "text": "Two files."}], "stop_reason": "end_turn"},
    ],
}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RECORDING))
    return ReplayModel(directory=tmp_path)


def request(turns=0, model="replay:run"):
    messages = [{"role": "user", "content": [{"type": "text", "text": "List the files."}]}]
    for _ in range(turns):
        messages.append({"role": "assistant", "content": [CALL]})
        messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]})
    return ModelRequest(model=model, session_id=SessionId("sesn_1"), messages=messages, max_tokens=100)


async def test_the_contract(model):
    await check_reply(model, request())
    await check_abort(model, request())
    await check_close(model)


async def test_the_reply_depends_on_the_conversation_alone(model):
    for _ in range(2):
        second = await check_reply(model, request(turns=1))
        first = await check_reply(model, request())
        assert list(first.content) == RECORDING["replies"][0]["content"]
        assert first.usage == Usage(input_tokens=5, output_tokens=7)
        assert second.content[0]["text"] == "Two files."


async def test_after_the_end_it_says_so(model):
    reply = await check_reply(model, request(turns=2))
    assert reply.stop_reason == "end_turn"
    assert "some-model on 2026-11-20" in reply.content[0]["text"]
    assert "only 2 replies" in reply.content[0]["text"]


async def test_the_pace_is_recorded_scaled_and_bounded(tmp_path, monkeypatch):
    timed = {**RECORDING["replies"][1], "first_seconds": 0.2, "seconds": 0.1}
    (tmp_path / "run.json").write_text(json.dumps({**RECORDING, "replies": [timed]}))
    started = time.monotonic()
    await collect(ReplayModel(directory=tmp_path), request())
    assert time.monotonic() - started >= 0.3
    monkeypatch.setattr("corral.brain.models.replay.REPLAY_SECONDS_MAX", 0.05)
    async with asyncio.timeout(60):
        slow = {**timed, "first_seconds": 3600, "seconds": 3600}
        (tmp_path / "run.json").write_text(json.dumps({**RECORDING, "replies": [slow]}))
        await collect(ReplayModel(directory=tmp_path), request())


async def test_text_arrives_in_pieces(model):
    pieces = [event for event in await collect(model, request()) if isinstance(event, TextDelta)]
    assert len(pieces) > 3


@pytest.mark.parametrize(
    "name",
    [
        "replay:../run",
        "replay:/etc/passwd",
        "replay:a/../../run",
        "replay:..",
        "replay:.hidden",
        "replay:",
        "replay:run\0",
        "replay/run",
        "replay:missing",
    ],
)
async def test_a_name_is_never_a_path(tmp_path, name):
    inner = tmp_path / "recordings"
    inner.mkdir()
    (tmp_path / "run.json").write_text(json.dumps(RECORDING))
    with pytest.raises(ModelFailed) as caught:
        await collect(ReplayModel(directory=inner), request(model=name))
    assert not caught.value.retryable


async def test_without_a_directory_only_the_bundled_one():
    with pytest.raises(ModelFailed, match="no directory of recordings"):
        await collect(ReplayModel(), request())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"replies": [{"content": []}]},
        {"replies": [{"content": [{}], "stop_reason": "end_turn"}]},
        {"replies": [{"content": [], "stop_reason": "end_turn", "usage": {"tokens": 1}}]},
        {"replies": 3},
    ],
)
async def test_a_broken_recording_is_named(tmp_path, change):
    (tmp_path / "run.json").write_text(json.dumps({**RECORDING, **change}))
    with pytest.raises(ModelFailed, match=r"run\.json"):
        await collect(ReplayModel(directory=tmp_path), request())
