"""The node's duty: what it says, and whom it believes to live."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from corral.cluster.node import Node
from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import NODE_LOST_SECONDS, SESSIONS_PER_BRAIN_MAX
from corral.orchestrator.node import NodeDuty, OnlyNode
from corral.store.database import Database
from corral.store.nodes import Nodes
from corral.testing.clock import ManualClock
from corral.testing.contract_nodes import some_node


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "corral.db", clock=clock)
    yield database
    await database.close()


async def describe() -> Node:
    return some_node("node_own")


async def test_brains_are_those_that_take_sessions(database: Database, clock: ManualClock) -> None:
    store = Nodes(database)
    duty = NodeDuty(store, describe)
    assert list(duty.brains()) == []  # nobody was heard of yet
    await store.beat(some_node("node_lost"))
    clock.advance(NODE_LOST_SECONDS + 1)
    await store.beat(some_node("node_other"))
    await store.beat(replace(some_node("node_draining"), is_draining=True))
    await store.beat(replace(some_node("node_full"), sessions=SESSIONS_PER_BRAIN_MAX))
    await store.beat(replace(some_node("node_hands"), roles=("hands",)))
    await duty.beat()
    assert list(duty.brains()) == ["node_other", "node_own"]
    hosts = {node.node_id for node in duty.hosts()}
    assert hosts == {"node_other", "node_own", "node_draining", "node_full", "node_hands"}


async def test_a_draining_node_says_so_of_itself_and_its_host(database: Database) -> None:
    store = Nodes(database)
    duty = NodeDuty(store, describe)
    await duty.beat()
    [before] = await store.all()
    assert not before.node.is_draining
    await duty.drain()
    [after] = await store.all()
    assert after.node.is_draining
    assert after.node.host is not None and after.node.host.is_draining
    assert list(duty.brains()) == []
    await duty.leave()
    assert list(await store.all()) == []


async def test_a_store_that_is_away_keeps_nobody_from_stopping(database: Database) -> None:
    duty = NodeDuty(Nodes(database), describe)
    assert duty.silent_seconds == float("inf")
    await duty.beat()
    assert duty.silent_seconds < NODE_LOST_SECONDS
    await database.close()
    with pytest.raises(StoreUnavailable):
        await duty.beat()
    await duty.drain()
    await duty.leave()
    assert duty.is_draining


async def test_a_node_alone_is_told_from_memory() -> None:
    store = OnlyNode()
    duty = NodeDuty(store, describe)
    await duty.beat()
    assert [each.node.node_id for each in duty.seen()] == ["node_own"]
    await duty.leave()
    assert list(await store.all()) == []
