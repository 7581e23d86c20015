"""The list of nodes on the database: one row each, judged by the database's clock.

What is written about a node grows from version to version, and nodes of two versions share the table. So a
row is read tolerantly: fields that are not known are left out, fields that are missing take their default,
and a row that lacks what every version wrote is not listed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from corral.cluster.node import HostFacts, Node, SeenNode
from corral.kernel.limits import NODE_FORGET_SECONDS
from corral.store.database import Database
from corral.store.schema import nodes

__all__ = ["Nodes"]

T = TypeVar("T")

_FORGET_US = int(NODE_FORGET_SECONDS * 1_000_000)
_UPDATE = (
    update(nodes)
    .where(nodes.c.node_id == bindparam("of_node_id"))
    .values(owner=bindparam("by"), beat_at=bindparam("at"), body=bindparam("said"))
)
_FORGET = delete(nodes).where(nodes.c.beat_at < bindparam("before"))
_ALL = (
    select(nodes.c.node_id, nodes.c.owner, nodes.c.beat_at, nodes.c.body)
    .where(nodes.c.beat_at >= bindparam("since"))
    .order_by(nodes.c.node_id)
)
_LEAVE = delete(nodes).where(nodes.c.node_id == bindparam("of_node_id"), nodes.c.owner == bindparam("by"))


class Nodes:
    """`cluster.node.NodeStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, node: Node) -> None:
        said = asdict(node)

        def body(connection: Connection) -> None:
            now_us = self._database.now_us(connection)
            row = {"of_node_id": node.node_id, "by": node.owner, "at": now_us, "said": said}
            if connection.execute(_UPDATE, row).rowcount == 0:
                connection.execute(
                    insert(nodes),
                    {"node_id": node.node_id, "owner": node.owner, "beat_at": now_us, "body": said},
                )
                connection.execute(_FORGET, {"before": now_us - _FORGET_US})

        await self._database.write(body)

    async def all(self) -> Sequence[SeenNode]:
        def body(connection: Connection) -> list[SeenNode]:
            now_us = self._database.now_us(connection)
            rows = connection.execute(_ALL, {"since": now_us - _FORGET_US}).all()
            seen = []
            for row in rows:
                node = _read(Node, {**row.body, "node_id": row.node_id, "owner": row.owner})
                if node is not None:
                    age = max(0, now_us - row.beat_at) / 1_000_000
                    seen.append(SeenNode(node=node, age_seconds=age))
            return seen

        return await self._database.read(body)

    async def leave(self, node_id: str, *, owner: str) -> None:
        def body(connection: Connection) -> None:
            connection.execute(_LEAVE, {"of_node_id": node_id, "by": owner})

        await self._database.write(body)


def _read(kind: type[T], said: Mapping[str, Any]) -> T | None:
    """What an older or newer version wrote, as ours; None if it says too little."""
    known = {each.name: said[each.name] for each in fields(kind) if each.name in said}  # type: ignore[arg-type]
    if kind is Node and isinstance(host := known.get("host"), Mapping):
        known["host"] = _read(HostFacts, host)
    if "roles" in known:
        known["roles"] = tuple(known["roles"])
    try:
        return kind(**known)
    except TypeError:
        return None
