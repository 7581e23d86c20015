"""Bounds of an environment, from the command line to a sandbox, through real processes."""

import asyncio
import contextlib
from itertools import count

import pytest

from corral.cli.connect import Api, Server
from corral.cli.environments import environment_limits
from corral.cli.outcome import Problem
from corral.testing.messages_reply import Reply
from tests.served import KEY, text
from tests.stage import TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")
_numbers = count(1)
HOG = "python3 -c 'print(len(bytearray(300 << 20)))' 2>&1 | tail -1"


async def said_by(stage: Stage, environment_id: str, command: str) -> str:
    agent = await stage.client.beta.agents.create(
        name="Tester", model="claude-opus-5-5", system=stage.name, tools=[TOOLSET]
    )
    session = await stage.client.beta.sessions.create(agent=agent.id, environment_id=environment_id)
    stage.session_ids.append(session.id)
    call = (f"toolu_bounds_{next(_numbers)}", "bash", {"command": command})
    stage.play(Reply.tools(call), Reply.text("Done."))
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go on."))
        await tail.idle()
        return words(await tail.until("agent.tool_result"))


async def test_bounds_hold_for_sessions_that_are_made_afterwards(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = await stage.client.beta.environments.create(name="small")
    assert await said_by(stage, environment.id, HOG) == str(300 << 20)
    with contextlib.closing(Api(Server(url=stage.server.url, key=KEY))) as api:

        async def limits(**given: str) -> str:
            await asyncio.to_thread(environment_limits, api, environment.id, given, as_json=False)
            return capsys.readouterr().out

        assert "256 MiB" in await limits(memory_bytes="256MiB", cpus="0.5")
        assert "0.5" in await limits() and "10 GiB" in await limits()
        assert "MemoryError" in await said_by(stage, environment.id, HOG)
        assert "2 GiB" in await limits(memory_bytes="default")
        assert await said_by(stage, environment.id, HOG) == str(300 << 20)
        for wrong in ({"memory_bytes": "lots"}, {"processes": "1GiB"}, {"cpus": "0"}):
            with pytest.raises(Problem):
                await limits(**wrong)
