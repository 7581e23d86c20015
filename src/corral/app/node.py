"""This node as the others see it, and the status of all of them."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import corral
from corral.app.ground import Ground
from corral.app.part import Part
from corral.app.store import disk_free_bytes
from corral.cluster.node import HostFacts, Node, NodeStore
from corral.config import Config
from corral.daemon import socket_path
from corral.hands.address import unix_address
from corral.hands.client import HandsClient
from corral.kernel.errors import HandsUnavailable
from corral.kernel.limits import HEALTH_REPLY_SECONDS, NODE_LOST_SECONDS
from corral.orchestrator.node import NodeDuty, OnlyNode
from corral.session.backlog import BacklogStore
from corral.session.content import Json
from corral.store.nodes import Nodes
from corral.supervisor.listen import url_of

__all__ = ["node_part", "open_node", "status_of"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def open_node(ground: Ground, hands: HandsClient | None, sessions: Callable[[], int]) -> NodeDuty:
    """The duty of this node. `hands`: its own host, if it has that role. `sessions`: running here now."""
    config, start = ground.config, ground.start
    assert start.listen_fd is not None
    with socket.socket(fileno=os.dup(start.listen_fd)) as listener:
        url = url_of(listener, config)
    machine = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else socket.gethostname()
    host = _Host(hands, config) if hands else None

    async def describe() -> Node:
        return Node(
            node_id=start.node,
            owner=start.owner,
            machine=machine,
            version=corral.__version__,
            roles=config.roles,
            url=url,
            pid=os.getpid(),
            host=await host.facts() if host else None,
            sessions=sessions(),
        )

    store: NodeStore = Nodes(ground.database) if config.is_postgres else OnlyNode()
    return NodeDuty(store, describe)


def node_part(duty: NodeDuty, *, is_shared: bool) -> Part:
    """is_shared: other nodes look at the list. One alone is described when somebody asks."""
    return Part(duties=[duty.run] if is_shared else [])


class _Host:
    """What the hands host of this node last said of itself; None once it has been silent for as long as
    makes a node lost."""

    def __init__(self, hands: HandsClient, config: Config) -> None:
        self._hands = hands
        self._config = config
        self._facts: HostFacts | None = None
        self._heard_at = 0.0

    async def facts(self) -> HostFacts | None:
        try:
            async with asyncio.timeout(HEALTH_REPLY_SECONDS):
                health = await self._hands.health()
        except (HandsUnavailable, TimeoutError):
            if time.monotonic() - self._heard_at > NODE_LOST_SECONDS:
                self._facts = None
            return self._facts
        self._heard_at = time.monotonic()
        self._facts = HostFacts(
            host_id=str(health["host_id"]),
            journal_id=str(health["journal_id"]),
            address=_address(self._config),
            capacity=int(health.get("capacity", self._config.sandboxes_max)),
            sandboxes=int(health.get("sandboxes", 0)),
            calls=int(health.get("calls", 0)),
            disk_free_bytes=disk_free_bytes(self._config.data_dir),
            is_draining=bool(health.get("is_draining", False)),
        )
        return self._facts


def _address(config: Config) -> str:
    listens = config.hands_address or config.hands_listen
    return f"https://{listens}" if listens else unix_address(socket_path(config.data_dir, "hands"))


def status_of(
    ground: Ground,
    duty: NodeDuty,
    backlogs: BacklogStore,
    sessions: Callable[[], int],
    *,
    unreachable: Callable[[], Mapping[str, str]] = dict,
) -> Callable[[], Awaitable[Mapping[str, Json]]]:
    """What `GET /corral/v1/status` answers: this process, every node, the work that waits. unreachable: why
    no call from here reaches a live host, by its id."""

    async def status() -> Mapping[str, Json]:
        if not ground.config.is_postgres:
            await duty.beat()
        backlog = await backlogs.count()
        whys = unreachable()
        nodes = [
            {
                **_shown(each.node, each.age_seconds, each.is_lost, backlog.leases),
                "unreachable": whys.get(each.node.host.host_id) if each.node.host else None,
            }
            for each in duty.seen()
        ]
        return {
            "role": "server",
            "roles": list(ground.config.roles),
            "node_id": ground.start.node,
            "pid": os.getpid(),
            "version": corral.__version__,
            "running_sessions": sessions(),
            "is_draining": duty.is_draining,
            "nodes": nodes,
            "backlog": {**asdict(backlog), "leases": sum(backlog.leases.values())},
        }

    return status


def _shown(node: Node, age_seconds: float, is_lost: bool, leases: Mapping[str, int]) -> dict[str, Json]:
    said = asdict(node)
    roles: Sequence[str] = node.roles
    return {
        **said,
        "roles": list(roles),
        "beat_age_seconds": round(age_seconds, 3),
        "is_lost": is_lost,
        "leases": sum(n for owner, n in leases.items() if owner.startswith(f"{node.node_id}.")),
    }
