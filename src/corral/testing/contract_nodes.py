"""What every list of nodes must do. Run `CHECKS` on yours: each is an async function of a fresh store and
the clock by which that store judges."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from corral.cluster.node import HostFacts, Node, NodeStore
from corral.kernel.limits import NODE_FORGET_SECONDS, NODE_LOST_SECONDS
from corral.testing.clock import ManualClock

__all__ = ["CHECKS", "Check", "some_node"]

Check = Callable[[NodeStore, ManualClock], Awaitable[None]]


def some_node(node_id: str = "node_1", *, incarnation: str = "inc_1") -> Node:
    return Node(
        node_id=node_id,
        owner=f"{node_id}.{incarnation}",
        machine="machine",
        version="0.1.0",
        roles=("brain", "hands"),
        url="http://127.0.0.1:8420",
        pid=17,
        host=HostFacts(
            host_id=f"host_of_{node_id}",
            journal_id="hjrn_1",
            address="unix:///run/hands.sock",
            capacity=64,
            sandboxes=3,
            calls=2,
            disk_free_bytes=1 << 40,
        ),
        sessions=5,
    )


async def check_a_node_reads_back(store: NodeStore, clock: ManualClock) -> None:
    node = some_node()
    await store.beat(node)
    [seen] = await store.all()
    assert seen.node == node
    assert seen.age_seconds == 0
    assert not seen.is_lost


async def check_each_beat_replaces_the_last(store: NodeStore, clock: ManualClock) -> None:
    await store.beat(some_node())
    clock.advance(NODE_LOST_SECONDS + 1)
    [silent] = await store.all()
    assert silent.is_lost
    assert silent.age_seconds == NODE_LOST_SECONDS + 1
    changed = replace(some_node(incarnation="inc_2"), sessions=0, host=None, is_draining=True)
    await store.beat(changed)
    [seen] = await store.all()
    assert seen.node == changed
    assert not seen.is_lost


async def check_nodes_come_in_the_order_of_their_ids(store: NodeStore, clock: ManualClock) -> None:
    for node_id in ("node_2", "node_3", "node_1"):
        await store.beat(some_node(node_id))
    assert [seen.node.node_id for seen in await store.all()] == ["node_1", "node_2", "node_3"]


async def check_a_node_that_is_long_gone_is_forgotten(store: NodeStore, clock: ManualClock) -> None:
    await store.beat(some_node("node_gone"))
    clock.advance(NODE_FORGET_SECONDS + 1)
    assert list(await store.all()) == []
    await store.beat(some_node("node_here"))
    assert [seen.node.node_id for seen in await store.all()] == ["node_here"]


async def check_who_leaves_is_not_listed(store: NodeStore, clock: ManualClock) -> None:
    node = some_node()
    await store.beat(node)
    await store.beat(some_node("node_2"))
    for _ in range(2):  # repeat: safe
        await store.leave(node.node_id, owner=node.owner)
        assert [seen.node.node_id for seen in await store.all()] == ["node_2"]


async def check_a_dead_incarnation_does_not_take_the_next_one_with_it(
    store: NodeStore, clock: ManualClock
) -> None:
    await store.beat(some_node(incarnation="inc_2"))
    await store.leave("node_1", owner="node_1.inc_1")
    assert [seen.node.owner for seen in await store.all()] == ["node_1.inc_2"]


CHECKS: tuple[Check, ...] = tuple(
    check for name, check in list(globals().items()) if name.startswith("check_")
)
