"""The Model port, on a GGUF model in its child process. Runs where the model is installed:
`corral models install local`, or CORRAL_TEST_GGUF=/path/to/any.gguf.
"""

import asyncio
import importlib.util
import os
import signal
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from corral.brain.models.local import LocalModel
from corral.brain.models.local_install import installed_path, models_dir
from corral.brain.ports import ModelFailed, ModelRequest
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import SessionId
from corral.testing.contract_model import check_abort, check_close, check_reply, collect

GGUF = Path(os.environ.get("CORRAL_TEST_GGUF") or installed_path(models_dir(os.environ)))
needs_model = pytest.mark.skipif(
    not GGUF.exists() or importlib.util.find_spec("xllamacpp") is None,
    reason="no local model here: `corral models install local`",
)
BASH = {"name": "bash", "description": "Run a command.", "input_schema": {"type": "object"}}


def request(text="Say hello.", **changes):
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    fields = {"model": "local", "session_id": SessionId("sesn_1"), "messages": messages, "max_tokens": 6}
    return ModelRequest(**(fields | changes))


def children():
    return [p for p in psutil.Process().children() if "corral.brain.models.local_child" in p.cmdline()]


@needs_model
async def test_the_contract(tmp_path, monkeypatch):
    model = LocalModel(directory=tmp_path, path=GGUF)
    await model.warm()
    await check_reply(model, request())
    await check_abort(model, request())
    acting = await check_reply(model, request("Print the working directory.", tools=[BASH], max_tokens=200))
    assert acting.stop_reason == "tool_use"
    assert acting.content[0]["name"] == "bash"
    assert acting.content[0]["input"]["command"].strip()
    assert acting.usage.input_tokens > 0
    assert acting.usage.output_tokens > 0

    # nothing of ours is in the child's environment, and it dies with us
    (child,) = children()
    assert set(child.environ()) == {"PATH", "LANG"}

    # one at a time, in order; the queue has an end
    monkeypatch.setattr("corral.brain.models.local.LOCAL_QUEUE_MAX", 2)
    stream = model.stream(request("Write a long story.", max_tokens=500))
    async with aclosing(stream):
        await anext(stream)
        waiting = [asyncio.create_task(collect(model, request(max_tokens=1))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ModelFailed, match="one request at a time") as caught:
            await collect(model, request())
        assert caught.value.failure == "overloaded"
    await asyncio.gather(*waiting)

    # too long a conversation is an overflow, not a crash
    with pytest.raises(ModelFailed) as caught:
        await collect(model, request("word " * 20_000))
    assert (caught.value.failure, caught.value.retryable) == ("context_overflow", False)

    # a killed child is a retryable failure, and the next request has a new one
    stream = model.stream(request("Write a long story.", max_tokens=500))
    async with aclosing(stream):
        await anext(stream)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ModelFailed, match="died") as caught:
            async for _ in stream:
                pass
    assert caught.value.retryable
    await check_reply(model, request())

    await check_close(model)
    assert children() == []


async def test_a_file_that_is_no_model(tmp_path):
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"not a model")
    model = LocalModel(directory=tmp_path, path=fake)
    assert "not a GGUF model" in (model.problem or "")
    with pytest.raises(ModelFailed, match="not a GGUF model") as caught:
        await collect(model, request())
    assert not caught.value.retryable


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
async def test_a_damaged_model_does_not_take_us_with_it(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(1000))
    model = LocalModel(directory=tmp_path, path=damaged)
    for _ in range(4):
        with pytest.raises(ModelFailed) as caught:
            await collect(model, request())
    assert not caught.value.retryable, "it is not tried for ever"
    assert children() == []


@pytest.mark.parametrize(
    "name", ["local:../x", "local:/etc/passwd", "local/a/b", "local:", "local:.x", "local:x"]
)
def test_a_name_is_never_a_path(tmp_path, name):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    inner = tmp_path / "models"
    inner.mkdir()
    with pytest.raises(InvalidRequest):
        LocalModel(directory=inner).path_of(name)


def test_names_find_files(tmp_path):
    (tmp_path / "phi-4.gguf").write_bytes(b"GGUF....")
    model = LocalModel(directory=tmp_path)
    assert model.path_of("local:phi-4") == tmp_path / "phi-4.gguf"
    assert model.path_of("local/phi-4.gguf") == tmp_path / "phi-4.gguf"
    assert "corral models install local" in (model.problem or "")
