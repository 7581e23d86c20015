"""Hands nodes of a cluster: killed, emptied and stopped. Their sessions go on with their files."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from corral.hands.news import NEWS_KEPT, OUTCOME_UNKNOWN
from corral.testing.messages_api import MessagesApi
from corral.testing.messages_reply import Answer, Reply
from tests.crash.cluster import MODEL, TOOLSET, Cluster, cluster, get
from tests.served import KEY, WAIT_SECONDS, Served, lives, served, text, until

SLOW = "echo ran >> ran; touch begun; sleep 600"
TIMEOUT_SECONDS = 120.0  # a host is missed first


def bash(command: str, number: int) -> Reply:
    return Reply.tools((f"toolu_{number}", "bash", {"command": command}))


@pytest.fixture
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest.fixture
async def nodes(database_url: str, upstream: MessagesApi) -> AsyncIterator[Cluster]:
    async with cluster(database_url=database_url, messages_url=upstream.url) as made:
        yield made


def sandboxes(node: Served) -> list[dict[str, Any]]:
    return list(get(node, "/corral/v1/sandboxes").json()["data"])


def results(events: list[Any]) -> list[tuple[list[str], bool]]:
    return [
        ([block.text for block in event.content], event.is_error)
        for event in events
        if event.type == "agent.tool_result"
    ]


async def cut_the_power(node: Served) -> None:
    """All of its processes at once."""
    pids = [node.pid(role) for role in ("hands", "server")]
    assert node.process is not None
    node.process.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL) if lives(pid) else None
    await node.process.wait()
    await until(lambda: not any(map(lives, pids)))


async def test_a_killed_hands_node_is_one_unknown_outcome_and_the_session_goes_on(
    nodes: Cluster, upstream: MessagesApi
) -> None:
    answers: list[Answer] = [
        bash("echo one > file", 1),
        Reply.text("Kept."),
        bash(SLOW, 2),
        bash("cat file; ls", 3),
        Reply.text("Done."),
    ]
    upstream.script = lambda request: answers.pop(0)
    front, *hands = await nodes.each(("api", "brain"), ("hands", "egress"), ("hands", "egress"))
    session_id = await nodes.session()
    await nodes.say(session_id)
    await nodes.rested(session_id)
    kept = await until(
        lambda: [each for each in sandboxes(front) if not each["has_changed"] and each["checkpoint_at"]],
        every=0.2,
    )
    assert kept[0]["session_id"] == session_id and kept[0]["provider"] == "bwrap"
    await nodes.say(session_id)
    victim = next(node for node in hands if node.workspace(session_id).exists())
    other = next(node for node in hands if node is not victim)
    await until((victim.workspace(session_id) / "begun").exists)
    await cut_the_power(victim)
    events = await nodes.rested(session_id, turns=2, seconds=TIMEOUT_SECONDS)
    _, unknown, last = results(events)
    assert unknown == ([OUTCOME_UNKNOWN], True)
    [news, out] = last[0]
    assert "restored" in news and out.split() == ["one", "file"]
    assert (victim.workspace(session_id) / "ran").read_text() == "ran\n"
    assert not (other.workspace(session_id) / "ran").exists()


async def test_an_evicted_session_is_restored_and_a_node_that_stops_leaves_its_files(
    nodes: Cluster, upstream: MessagesApi
) -> None:
    answers: list[Answer] = [
        bash("echo one > file; ln -s /usr/bin/python3 link", 1),
        Reply.text("Kept."),
        bash("cat file; readlink link", 2),
        Reply.text("Back."),
        bash("cat file; readlink link", 3),
        Reply.text("Moved."),
    ]
    upstream.script = lambda request: answers.pop(0)
    front, first = await nodes.each(("api", "brain"), ("hands", "egress"))
    session_id = await nodes.session()
    await nodes.say(session_id)
    await nodes.rested(session_id)
    response = await evicted(front, session_id)
    assert response["session_id"] == session_id and sandboxes(front) == []
    assert not first.workspace(session_id).exists()
    await nodes.say(session_id)
    await nodes.rested(session_id, turns=2)
    await nodes.node("hands", "egress")
    await first.stop()  # in good order: what is idle is copied before the end
    await nodes.say(session_id)
    events = await nodes.rested(session_id, turns=3, seconds=TIMEOUT_SECONDS)
    for texts, is_error in results(events)[1:]:
        assert "restored" in texts[0] and texts[1].split() == ["one", "/usr/bin/python3"]
        assert not is_error


async def test_on_one_machine_alone_an_evicted_session_keeps_its_files_where_they_are(
    upstream: MessagesApi,
) -> None:
    answers: list[Answer] = [
        bash("echo one > file", 1),
        Reply.text("Kept."),
        bash("cat file", 2),
        Reply.text("Done."),
    ]
    upstream.script = lambda request: answers.pop(0)
    async with served(messages_url=upstream.url) as server:
        beta = server.client.beta
        agent = await beta.agents.create(name="Tester", model=MODEL, tools=[TOOLSET])  # type: ignore[list-item]
        environment = await beta.environments.create(name="test")
        session_id = (await beta.sessions.create(agent=agent.id, environment_id=environment.id)).id

        async def turn(number: int) -> list[tuple[list[str], bool]]:
            await beta.sessions.events.send(session_id, events=[text("Go.")])  # type: ignore[list-item]
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while True:
                    events = (await beta.sessions.events.list(session_id, limit=1000)).data
                    if sum(event.type == "session.status_idle" for event in events) == number:
                        return results(events)
                    await asyncio.sleep(0.05)

        await turn(1)
        [listed] = sandboxes(server)
        assert (listed["session_id"], listed["provider"]) == (session_id, "bwrap")
        assert listed["disk_bytes"] > 0 and listed["checkpoint_at"] is None and not listed["is_busy"]
        await evicted(server, session_id)
        [listed] = sandboxes(server)
        assert listed["provider"] is None
        assert (server.workspace(session_id) / "file").read_text() == "one\n"
        assert (await turn(2))[1] == ([NEWS_KEPT, "one"], False)
        unknown = get(server, "/corral/v1/sandboxes?x=1")
        assert unknown.status_code == 400


async def evicted(node: Served, session_id: str) -> dict[str, Any]:
    """Once it can be: at any moment it may be copied, for it is idle."""
    path = f"/corral/v1/sandboxes/{session_id}/evict"
    async with (
        asyncio.timeout(TIMEOUT_SECONDS),
        httpx2.AsyncClient(base_url=node.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS) as http,
    ):
        while (response := await http.post(path)).status_code == 409 and "Look again" in response.text:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert response.status_code == 200, response.text
    return dict(response.json())
