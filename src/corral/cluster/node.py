"""A node as the others see it, and the port that keeps the list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from corral.kernel.limits import NODE_LOST_SECONDS

NodeRole = Literal["api", "brain", "hands", "egress"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFacts:
    """The hands host of a node.

    address:   `unix:///path/of/hands.sock`, for nodes of the same machine, or `https://host:port`.
    capacity:  live sandboxes it may have. is_draining: it takes no new sessions.
    """

    host_id: str
    journal_id: str
    address: str
    capacity: int
    sandboxes: int = 0
    calls: int = 0
    disk_free_bytes: int = 0
    is_draining: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One `corral serve`.

    owner:    `{node_id}.{incarnation}` of its server process, as in its leases.
    machine:  equal for nodes that can reach each other's unix sockets (kernel boot id).
    url:      of its API and operations endpoints, as other nodes and `corral status` reach it.
    sessions: running in its brain now.
    """

    node_id: str
    owner: str
    machine: str
    version: str
    roles: Sequence[NodeRole]
    url: str
    pid: int
    host: HostFacts | None = None
    sessions: int = 0
    is_draining: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenNode:
    """A node and how long ago, by the database's clock, it was heard of."""

    node: Node
    age_seconds: float

    @property
    def is_lost(self) -> bool:
        return self.age_seconds > NODE_LOST_SECONDS


class NodeStore(Protocol):
    """The list of nodes. Times are the database's."""

    async def beat(self, node: Node) -> None:
        """Write the node's row, new or not. Repeat: safe; every NODE_BEAT_SECONDS."""

    async def all(self) -> Sequence[SeenNode]:
        """Every node that was heard of within NODE_FORGET_SECONDS, oldest id first; older rows are removed
        by `beat`."""

    async def leave(self, node_id: str, *, owner: str) -> None:
        """It has stopped in good order: remove its row, unless a newer incarnation wrote it."""
