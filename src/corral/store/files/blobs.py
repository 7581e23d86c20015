"""Who names which bytes. A change of it holds the blob's row until the commit.

Several rows are locked in the order of their keys.
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from corral.kernel.errors import Conflict
from corral.kernel.ids import WorkspaceId
from corral.store.locks import one_of
from corral.store.schema import file_blobs, file_usage

__all__ = ["count_usage", "counted", "expect_blob", "name_blob", "name_more", "release", "unexpect_blob"]

_IS = file_blobs.c.blob_key == bindparam("of_key")
_LOCKED_ALL = (
    select(file_blobs.c.blob_key, file_blobs.c.state)
    .where(one_of(file_blobs.c.blob_key, "of_keys"))
    .order_by(file_blobs.c.blob_key)
    .with_for_update()
)
_UPDATE = update(file_blobs).where(_IS)
_NAMED = _UPDATE.where(file_blobs.c.state == "coming").values(state="kept", files=1, give_up_at=None)
_MORE = update(file_blobs).where(_IS).values(files=file_blobs.c.files + bindparam("more"))
_UNNAMED = _UPDATE.where(file_blobs.c.state == "coming").values(state="going", give_up_at=None)
_LEFT = (
    update(file_blobs)
    .where(one_of(file_blobs.c.blob_key, "of_keys"), file_blobs.c.state == "kept", file_blobs.c.files == 0)
    .values(state="going")
)
_SUM = select(func.coalesce(func.sum(file_usage.c.bytes), 0))
_IS_ITS = file_usage.c.workspace_id == bindparam("of_workspace_id")
_OWN = select(file_usage.c.bytes).where(_IS_ITS)
_ADD = update(file_usage).where(_IS_ITS).values(bytes=file_usage.c.bytes + bindparam("more"))


def expect_blob(connection: Connection, blob_key: str, *, give_up_at: datetime) -> None:
    connection.execute(
        insert(file_blobs), {"blob_key": blob_key, "state": "coming", "files": 0, "give_up_at": give_up_at}
    )


def unexpect_blob(connection: Connection, blob_key: str) -> None:
    """Nothing if a file names it."""
    connection.execute(_UNNAMED, {"of_key": blob_key})


def name_blob(connection: Connection, blob_key: str) -> None:
    """The first file names it. Raises Conflict: it has been given up."""
    if connection.execute(_NAMED, {"of_key": blob_key}).rowcount != 1:
        raise Conflict(
            "The upload took so long that its bytes have been given up. Send it again.", retryable=True
        )


def name_more(connection: Connection, more: dict[str, int]) -> set[str]:
    """So many more files name each of these, unless some are not `kept` any more, which are returned."""
    rows = connection.execute(_LOCKED_ALL, {"of_keys": sorted(more)}).all()
    lost = set(more) - {row.blob_key for row in rows if row.state == "kept"}
    if not lost:
        connection.execute(_MORE, [{"of_key": key, "more": count} for key, count in more.items()])
    return lost


def release(connection: Connection, fewer: dict[str, int]) -> None:
    """So many fewer files name each of these; what nobody names is `going`."""
    if not fewer:
        return
    keys = sorted(fewer)
    connection.execute(_LOCKED_ALL, {"of_keys": keys}).all()
    connection.execute(_MORE, [{"of_key": key, "more": -fewer[key]} for key in keys])
    connection.execute(_LEFT, {"of_keys": keys})


def count_usage(connection: Connection, workspace_id: WorkspaceId, more: int) -> tuple[int, int]:
    """Bytes of all uploads, these included: of the workspace, and of all workspaces together."""
    # The first of a workspace makes its row, and may have a twin on another node. SQLAlchemy has this
    # statement, which both engines spell alike, for each of them only.
    make = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(file_usage)
    connection.execute(make.on_conflict_do_nothing(), {"workspace_id": workspace_id, "bytes": 0})
    connection.execute(_ADD, {"of_workspace_id": workspace_id, "more": more})
    own = connection.scalar(_OWN, {"of_workspace_id": workspace_id})
    return int(own or 0), int(connection.scalar(_SUM) or 0)


def counted(keys: Collection[str | None]) -> dict[str, int]:
    """How often each is there."""
    counts: dict[str, int] = {}
    for key in keys:
        if key is not None:
            counts[key] = counts.get(key, 0) + 1
    return counts
