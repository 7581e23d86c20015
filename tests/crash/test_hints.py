"""Hints between nodes: with them a client on one node sees the deltas of a brain on another; with some of
them lost or repeated, and with none at all, everything still happens, only later; also when the nodes do
not agree on the time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.kernel.ids import SessionId
from corral.orchestrator.routing import chosen
from corral.testing.messages_api import MessagesApi
from corral.testing.messages_reply import Reply
from tests.crash.cluster import Cluster, cluster, get, listed
from tests.served import Served, until
from tests.stage import Tail, words

SESSIONS = 16  # each brain is chosen for half of them
# Turns of each. In one of them a sweep at the wrong moment may claim all that wait; and a look at the store
# may find a message before its last deltas have come, which are not shown any more then.
SHARED_WITHIN = 5
WORDS = "In small pieces, from one node to another."


@pytest.fixture
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        api.script = lambda request: Reply(
            content=Reply.text(WORDS).content, delta_chars=5, drip_bytes=200, drip_seconds=0.01
        )
        yield api


@pytest.fixture
async def nodes(database_url: str, upstream: MessagesApi) -> AsyncIterator[Cluster]:
    async with cluster(database_url=database_url, messages_url=upstream.url) as made:
        yield made


async def test_nodes_need_no_hint(nodes: Cluster, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("api", "early", "late")]
    api, *others = ({"CORRAL_FAULTS": f"@{file}"} for file in files)
    await nodes.node("api", environment=api)
    brains = [await nodes.node("brain", environment=environment) for environment in others]
    await until(lambda: all(listed(by, brain) for by in brains for brain in brains))
    session_ids = await shared(nodes, brains)

    turns, unseen = 0, set(session_ids)
    while turns < SHARED_WITHIN and (unseen or not all(turns_of(brain) for brain in brains)):
        for session_id, tail in zip(session_ids, await turn(nodes, session_ids), strict=True):
            deltas = [event.delta.content.text for event in tail.of("event_delta")]
            shown = "".join(deltas)
            assert WORDS.startswith(shown)
            if shown == WORDS and len(deltas) > 3:
                unseen.discard(session_id)
        turns += 1
    assert not unseen, "what one node's brain hears, the other's client sees"
    assert all(turns_of(brain) for brain in brains), "the brains share the sessions"
    for asked in ("bus.drop=0.5,bus.duplicate=0.5", "bus.drop=1"):
        for file, step in zip(files, (0, -3600, 3600), strict=True):
            change(file, f"{asked},clock.step={step}")
        tails = await turn(nodes, session_ids)
        turns += 1
    assert not [event for tail in tails for event in tail.of("event_delta")], "not one hint came through"
    await until(lambda: sum(turns_of(brain) for brain in brains) >= turns * SESSIONS)
    for session_id in session_ids:
        events = [event async for event in nodes.client.beta.sessions.events.list(session_id)]
        kinds = Counter(event.type for event in events)
        assert kinds["user.message"] == kinds["agent.message"] == kinds["session.status_idle"] == turns
        assert len({event.id for event in events}) == len(events)
        stamps = [event.processed_at for event in events]
        assert stamps == sorted(set(stamps)), "although each node has a clock of its own"


async def shared(nodes: Cluster, brains: list[Served]) -> list[str]:
    """New sessions: for as many of them each brain is the one to answer."""
    ids = [listed(brain, brain)["node_id"] for brain in brains]  # type: ignore[index]
    wanted = dict.fromkeys(ids, SESSIONS // len(ids))
    session_ids = []
    while any(wanted.values()):
        session_id = await nodes.session()
        brain = chosen(SessionId(session_id), ids)
        if brain is not None and wanted[brain]:
            wanted[brain] -= 1
            session_ids.append(session_id)
    return session_ids


async def turn(nodes: Cluster, session_ids: list[str]) -> list[Tail]:
    """A message to each session at once; what its stream has shown when the turn is over."""

    async def one(session_id: str) -> Tail:
        stream = await nodes.client.beta.sessions.events.stream(session_id, event_deltas=["agent.message"])
        tail = Tail(stream)
        reading = asyncio.create_task(tail.read())
        try:
            await nodes.say(session_id)
            await tail.idle()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await stream.close()
        assert [words(event) for event in tail.of("agent.message")] == [WORDS]
        return tail

    return list(await asyncio.gather(*(one(session_id) for session_id in session_ids)))


def change(faults: Path, text: str) -> None:
    """In one step: the nodes read the file at any moment."""
    new = faults.with_suffix(".new")
    new.write_text(text)
    new.rename(faults)


def turns_of(brain: Served) -> int:
    """How often a session has come to rest in this brain."""
    for line in get(brain, "/metrics").text.splitlines():
        name, _, number = line.partition(" ")
        if name == "corral_turn_seconds_count":
            return int(float(number))
    raise AssertionError("this metric is not shown")
