"""An agent is told of its skills, reads them in its sandbox, and keeps what it makes of them."""

import pytest

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

SKILL_MD = (
    b"---\nname: greeting\ndescription: Greets people. Use it for a greeting.\n---\nRun scripts/hello.sh.\n"
)
AT = "/workspace/skills/greeting"


def call(number: int, name: str, **fields: object) -> tuple[str, str, dict[str, object]]:
    return f"toolu_{number}", name, fields


async def test_a_skill_is_told_of_read_and_run(stage: Stage) -> None:
    client = stage.client
    skill = await client.skills.create(
        files=[
            ("greeting/SKILL.md", SKILL_MD),
            ("greeting/scripts/hello.sh", b"#!/bin/sh\necho hello from $(dirname $0)\n"),
        ]
    )
    stage.play(
        Reply.tools(call(1, "read", file_path=f"{AT}/SKILL.md")),
        Reply.tools(call(2, "bash", command=f"{AT}/scripts/hello.sh; echo changed > {AT}/SKILL.md")),
        Reply.text("Hello."),
        Reply.tools(call(3, "bash", command=f"cat {AT}/SKILL.md; ls -la {AT}")),
        Reply.text("Done."),
    )
    agent = await client.beta.agents.create(
        name="Tester",
        model="claude-opus-5-5",
        system=stage.name,
        tools=[TOOLSET],
        skills=[{"type": "custom", "skill_id": skill.id}],
    )
    environment = await client.beta.environments.create(name="skills")
    session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    stage.session_ids.append(session.id)
    await client.skills.delete(skill.id)  # the session keeps what it began with
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Greet me."))
        await tail.idle()
    async with stage.watch(session.id) as again:
        await stage.send(session.id, text("What has become of it?"))
        await again.idle()
    read, run = tail.of("agent.tool_result")
    assert "Run scripts/hello.sh." in words(read) and not read.is_error
    assert (words(run).strip(), run.is_error) == (f"hello from {AT}/scripts", False)
    [after] = again.of("agent.tool_result")
    assert words(after).startswith("changed\n"), "a copy is made once, and then the agent's"

    systems = [request.json["system"] for request in stage.requests]
    assert len(systems) == 5 and all(system == systems[0] for system in systems)
    told = [block["text"] for block in systems[0] if AT in block["text"]]
    assert told and f"- greeting ({AT}/SKILL.md): Greets people. Use it for a greeting." in told[0]
