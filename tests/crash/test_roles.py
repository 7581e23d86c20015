"""Nodes with some of the roles, on one PostgreSQL: real processes, real signals, the unmodified SDK."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from corral import __version__
from corral.cli.status import collect
from corral.testing.messages_api import MessagesApi
from corral.testing.messages_reply import Answer, Reply
from tests.crash.cluster import Cluster, cluster, get, listed, spare_of, status
from tests.served import Served, until


@pytest.fixture
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest.fixture
async def nodes(database_url: str, upstream: MessagesApi) -> AsyncIterator[Cluster]:
    async with cluster(database_url=database_url, messages_url=upstream.url) as made:
        yield made


def failed_of(node: Served) -> dict[str, Any]:
    checks = get(node, "/readyz").json()["checks"]
    return {name: check for name, check in checks.items() if check["status"] == "failed"}


def types(events: list[Any]) -> list[str]:
    return [event.type for event in events]


async def holder(nodes: Cluster, *brains: Served) -> Served:
    """The node whose brain holds a lease."""

    def look() -> Served | None:
        leases = {each["url"]: each["leases"] for each in status(nodes.nodes[0])["nodes"]}
        return next((brain for brain in brains if leases[brain.url]), None)

    return await until(look) or brains[0]


async def test_a_killed_brain_is_replaced_at_once(nodes: Cluster, upstream: MessagesApi) -> None:
    """The model is silent when the brain dies; whoever goes on closes that request and asks again."""
    answers: list[Answer] = [Reply(hang_after_bytes=0), Reply.text("Here I am.")]
    upstream.script = lambda request: answers.pop(0)
    _, *brains = await nodes.each(("api",), ("brain",), ("brain",))
    session_id = await nodes.session()
    for brain in brains:
        await spare_of(brain)
    await nodes.say(session_id)
    await upstream.request(1)
    victim = await holder(nodes, *brains)
    killed_at = time.time()
    await victim.kill("server")
    events = await nodes.rested(session_id)
    later = [event for event in events if event.processed_at.timestamp() > killed_at]
    assert types(later)[:4] == [
        "span.model_request_end",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
    ]
    assert later[0].is_error
    assert upstream.count == 2
    await until(lambda: "which was the spare" in victim.log)


async def test_a_draining_brain_loses_and_repeats_no_model_call(
    nodes: Cluster, upstream: MessagesApi
) -> None:
    """Both brains are restarted in turn, each while sessions of it wait for a slow model."""
    api, *brains = await nodes.each(("api",), ("brain",), ("brain",))
    session_ids = [await nodes.session() for _ in range(4)]
    for turn, brain in enumerate(brains, start=1):
        go = asyncio.Event()
        upstream.script = lambda request, go=go: Reply(held_until=go)  # type: ignore[misc]
        for session_id in session_ids:
            await nodes.say(session_id)
        await upstream.request(len(session_ids) * turn)
        stopping = asyncio.create_task(brain.stop())
        await until(lambda brain=brain: (seen := listed(api, brain)) is None or seen["is_draining"])
        go.set()
        await stopping
        await until(lambda brain=brain: listed(api, brain) is None)  # it left in good order
        for session_id in session_ids:
            events = await nodes.rested(session_id, turns=turn)
            assert types(events).count("agent.message") == turn
            assert not any(event.type == "session.error" for event in events)
        if turn < len(brains):
            await brain.start()
    assert upstream.count == len(session_ids) * len(brains), "a model call was lost or repeated"


async def test_every_role_says_how_it_is(nodes: Cluster) -> None:
    """What each role checks, and that any node knows all of them."""
    roles = {
        "api": {"store", "disk", "bus"},
        "brain": {"store", "disk", "bus", "brain", "model", "sandboxes"},
        "hands": {"store", "disk", "bus", "hands"},
        "egress": {"store", "disk", "bus", "egress"},
    }
    made = dict(zip(roles, await nodes.each(("api",), ("brain",), ("hands",), ("egress",)), strict=True))
    for role, names in roles.items():
        node = made[role]
        ready = get(node, "/readyz").json()
        assert set(ready["checks"]) >= names, role
        assert get(node, "/healthz").status_code == 200
        assert get(node, "/v1/agents").status_code == (200 if role == "api" else 404)
        metrics = get(node, "/metrics").text
        assert f'roles="{role}"' in metrics
        assert 'corral_nodes{state="live"}' in metrics
        assert "node_" not in metrics and "sesn_" not in metrics
    hands = made["hands"]
    await until(
        lambda: all((listed(hands, node) or {}).get("pid") == node.pid("server") for node in made.values())
    )
    await until(lambda: all(get(node, "/readyz").status_code == 200 for node in made.values()), every=0.2)
    seen = listed(made["api"], hands)
    assert seen is not None and seen["host"]["capacity"] > 0 and seen["roles"] == ["hands"]
    # What a role does not need it does not have.
    assert not (made["api"].config.data_dir / "hands" / "workspaces").exists()
    environment = Path(f"/proc/{hands.pid('hands')}/environ").read_text() if os.geteuid() == 0 else ""
    assert "postgresql" not in environment
    shown = await until(lambda: (found := collect(made["api"].config))["is_well"] and found, every=0.2)
    assert {tuple(each["roles"]) for each in shown["nodes"]} == {(role,) for role in roles}
    assert shown["backlog"]["waiting"] == 0
    # A host that stops is told of as draining for as long as it lives, and is gone afterwards.
    assert hands.process is not None
    hands.process.send_signal(signal.SIGTERM)
    await until(lambda: (now := listed(made["api"], hands)) is None or now["host"]["is_draining"])
    await until(lambda: listed(made["api"], hands) is None)
    # A brain without any hands can think, and says what it lacks.
    checks = await until(lambda: (found := failed_of(made["brain"])).keys() == {"sandboxes"} and found)
    assert "no hands host answers" in checks["sandboxes"]["reason"]


async def test_nodes_of_two_versions_work_together(
    nodes: Cluster, upstream: MessagesApi, tmp_path: Path
) -> None:
    """One node believes that it is the next minor version; sessions pass between the two."""
    upstream.script = lambda request: Reply.text("Hello.")
    (tmp_path / "sitecustomize.py").write_text("import corral\ncorral.__version__ = '0.2.0'\n")
    later = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    (api, old), new = await asyncio.gather(
        nodes.each(("api",), ("brain",)), nodes.node("brain", environment=later)
    )
    await until(lambda: {each["version"] for each in status(api)["nodes"]} == {__version__, "0.2.0"})
    session_id = await nodes.session()
    for turn, leaving in enumerate((old, new), start=1):
        await nodes.say(session_id)
        assert types(await nodes.rested(session_id, turns=turn)).count("agent.message") == turn
        await leaving.stop()
        if turn == 1:
            await until(lambda leaving=leaving: listed(api, leaving) is None)
            assert [each["version"] for each in status(api)["nodes"] if "brain" in each["roles"]] == [
                "0.2.0"
            ]


async def test_a_turn_with_a_tool_across_nodes(nodes: Cluster, upstream: MessagesApi) -> None:
    """API, brain and hands on nodes of their own; the brain dies while the tool runs, and the next one gets
    the one true result."""
    command = "echo ran >> log; touch begun; while [ ! -e go ]; do sleep 0.05; done; wc -l < log"
    answers: list[Answer] = [Reply.tools(("toolu_1", "bash", {"command": command})), Reply.text("Once.")]
    upstream.script = lambda request: answers.pop(0)
    _, hands, *brains = await nodes.each(("api",), ("hands",), ("brain",), ("brain",))
    for brain in brains:
        await spare_of(brain)
    session_id = await nodes.session()
    await nodes.say(session_id)
    workspace = hands.workspace(session_id)
    await until(lambda: (workspace / "begun").exists())
    victim = await holder(nodes, *brains)
    await victim.kill("server")
    await until(lambda: "which was the spare" in victim.log)
    (workspace / "go").touch()
    events = await nodes.rested(session_id)
    [result] = [event for event in events if event.type == "agent.tool_result"]
    assert not result.is_error
    assert result.content[0].text.strip() == "1"
    assert (workspace / "log").read_text() == "ran\n"
    assert types(events)[-4:].count("session.status_idle") == 1
