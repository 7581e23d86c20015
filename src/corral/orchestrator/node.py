"""The node's duty: say every NODE_BEAT_SECONDS that it lives and what it has, and know who else does."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import replace

from corral.cluster.node import Node, NodeRole, NodeStore, SeenNode
from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import NODE_BEAT_SECONDS, NODE_LOST_SECONDS, SESSIONS_PER_BRAIN_MAX

__all__ = ["NodeDuty", "OnlyNode"]

log = logging.getLogger(__name__)


class NodeDuty:
    """`run` until cancelled. Everybody else in the process asks `seen`, `brains` and `hosts`, which answer
    from memory: what was read at the last beat, with its age since."""

    def __init__(self, store: NodeStore, describe: Callable[[], Awaitable[Node]]) -> None:
        """describe: this node as it is now; must not raise for what others may be blamed for."""
        self._store = store
        self._describe = describe
        self._is_draining = False
        self._seen: Sequence[SeenNode] = ()
        self._elsewhere: Set[NodeRole] | None = None
        self._read_at = 0.0
        self._beat_at: float | None = None
        self._beating = asyncio.Lock()

    async def run(self) -> None:
        """The first beat is due before the node serves: call `beat` for it."""
        while True:
            await asyncio.sleep(NODE_BEAT_SECONDS)
            try:
                await self.beat()
            except StoreUnavailable as error:
                log.warning("the node cannot say that it lives: %s", error)

    async def beat(self) -> None:
        """Write our row, read everybody's. Raises StoreUnavailable."""
        async with self._beating:
            node = await self._described()
            await self._store.beat(node)
            self._beat_at = time.monotonic()
            self._seen, self._read_at = await self._store.all(), time.monotonic()
            others = [each.node for each in self._seen if not each.is_lost]
            self._elsewhere = {r for each in others if each.node_id != node.node_id for r in each.roles}

    async def drain(self) -> None:
        """From now on the node takes nothing new; the others are told before anything is handed over."""
        self._is_draining = True
        try:
            await self.beat()
        except StoreUnavailable as error:  # then the others notice by our silence
            log.warning("the node cannot say that it stops: %s", error)

    async def leave(self) -> None:
        """It has stopped in good order. What it could not say, its silence will."""
        node = await self._described()
        try:
            await self._store.leave(node.node_id, owner=node.owner)
        except StoreUnavailable as error:
            log.warning("the node cannot leave: %s", error)

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @property
    def silent_seconds(self) -> float:
        """Since this node's last beat reached the store; infinite before the first."""
        return float("inf") if self._beat_at is None else time.monotonic() - self._beat_at

    def seen(self) -> Sequence[SeenNode]:
        """Every node, as of now: a list that could not be read anew for NODE_LOST_SECONDS is one of the
        lost."""
        since = time.monotonic() - self._read_at
        return [replace(each, age_seconds=each.age_seconds + since) for each in self._seen]

    def live(self) -> Sequence[Node]:
        return [each.node for each in self.seen() if not each.is_lost]

    def brains(self) -> Sequence[str]:
        """Ids of nodes that take sessions: live, not draining, not full."""
        return [
            node.node_id
            for node in self.live()
            if "brain" in node.roles and not node.is_draining and node.sessions < SESSIONS_PER_BRAIN_MAX
        ]

    def roles_elsewhere(self) -> Set[NodeRole] | None:
        """What the other live nodes do; None while no list could be read. Cheap."""
        return self._elsewhere if time.monotonic() - self._read_at < NODE_LOST_SECONDS else None

    def hosts(self) -> Sequence[Node]:
        """Live nodes with a hands host that has been heard of, draining ones included."""
        return [node for node in self.live() if node.host is not None]

    async def _described(self) -> Node:
        node = await self._describe()
        if not self._is_draining:
            return node
        host = replace(node.host, is_draining=True) if node.host else None
        return replace(node, is_draining=True, host=host)


class OnlyNode:
    """`NodeStore` of a database that one node has for itself: nobody else would read what it writes."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._beat_at = 0.0

    async def beat(self, node: Node) -> None:
        self._node, self._beat_at = node, time.monotonic()

    async def all(self) -> Sequence[SeenNode]:
        if self._node is None:
            return []
        return [SeenNode(node=self._node, age_seconds=time.monotonic() - self._beat_at)]

    async def leave(self, node_id: str, *, owner: str) -> None:
        if self._node is not None and self._node.owner == owner:
            self._node = None


assert NODE_BEAT_SECONDS < NODE_LOST_SECONDS  # a missed beat or two is no loss
