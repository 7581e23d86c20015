"""Nodes, where sandboxes are, and who writes."""

from sqlalchemy import BigInteger, Column, Index, String, Table

from corral.store.schema.types import JsonBytes, Moment, metadata

__all__ = ["checkpoints", "nodes", "placements", "writers"]

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", String, primary_key=True),
    Column("owner", String, nullable=False),  # of the leases of its brain, and of this row
    Column("beat_at", BigInteger, nullable=False),  # by the database's clock, us
    Column("body", JsonBytes, nullable=False),  # cluster.node.Node
)

placements = Table(
    "placements",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("host_id", String, nullable=False),
    Column("placed_at", Moment, nullable=False),
    Index("placements_by_host", "host_id", "session_id"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("session_id", String, primary_key=True),  # the newest one only
    Column("blob_key", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("host_id", String, nullable=False),  # where it was taken
    Column("taken_at", Moment, nullable=False),
)

# PostgreSQL only: the last transaction of each writing connection (store.transact).
writers = Table(
    "writers",
    metadata,
    Column("writer_id", String, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),  # by the database's clock, us
)
