"""What is over: files whose time has come, and blobs that nobody names."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, select, update

from corral.kernel.limits import FILES_CLEAN_BATCH_MAX
from corral.store.database import Database
from corral.store.files.blobs import count_usage, counted, release
from corral.store.files.rows import FILE, file_of
from corral.store.locks import one_of
from corral.store.schema import file_blobs, file_usage, files, from_us

__all__ = ["UnneededBlobRows", "forget_contents"]

_NOW = bindparam("now", type_=files.c.due_at.type)
_DUE = FILE.where(files.c.due_at <= _NOW).order_by(files.c.due_at).limit(FILES_CLEAN_BATCH_MAX)
# Two nodes at it at once take different rows, and nobody waits for them.
_DUE_LOCKED = _DUE.with_for_update(skip_locked=True)
_IS_FILE = files.c.file_id == bindparam("of_id")
_GIVEN_UP = (file_blobs.c.state == "coming") & (file_blobs.c.give_up_at <= _NOW)
_ANY_GIVEN_UP = select(file_blobs.c.blob_key).where(_GIVEN_UP).limit(1)
_GIVE_UP = update(file_blobs).where(_GIVEN_UP).values(state="going", give_up_at=None)
_GOING = select(file_blobs.c.blob_key).where(file_blobs.c.state == "going").order_by(file_blobs.c.blob_key)
_GONE = delete(file_blobs).where(one_of(file_blobs.c.blob_key, "of_keys"), file_blobs.c.state == "going")


def forget_contents(connection: Connection, blob_keys: Sequence[str]) -> None:
    """These bytes are lost, whoever names them."""
    if not blob_keys:
        return
    for key in blob_keys:
        connection.execute(update(files).where(files.c.blob_key == key).values(blob_key=None))
        connection.execute(delete(file_blobs).where(file_blobs.c.blob_key == key))
    kept = select(func.coalesce(func.sum(files.c.size_bytes), 0)).where(
        files.c.workspace_id == file_usage.c.workspace_id,
        files.c.origin == "upload",
        files.c.blob_key.is_not(None),
    )
    connection.execute(update(file_usage).values(bytes=kept.scalar_subquery()))


class UnneededBlobRows:
    """`catalog.files.UnneededBlobs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire(self) -> bool:
        # Most of the time there is nothing, and nobody who writes need wait for that.
        if not await self._database.read(self._is_anything_over):
            return False
        return await self._database.write(self._expire)

    async def going(self, *, limit: int) -> Sequence[str]:
        return await self._database.read(lambda connection: connection.scalars(_GOING.limit(limit)).all())

    async def gone(self, blob_keys: Sequence[str]) -> None:
        def body(connection: Connection) -> None:
            connection.execute(_GONE, {"of_keys": list(blob_keys)})

        if blob_keys:
            await self._database.write(body)

    def _is_anything_over(self, connection: Connection) -> bool:
        now = {"now": from_us(self._database.now_us(connection))}
        return any(connection.execute(each, now).first() is not None for each in (_DUE, _ANY_GIVEN_UP))

    def _expire(self, connection: Connection) -> bool:
        now = from_us(self._database.now_us(connection))
        # A writer that names its blob now holds the row, and has it `kept` before this one sees it.
        connection.execute(_GIVE_UP, {"now": now})
        due = [file_of(row) for row in connection.execute(_DUE_LOCKED, {"now": now})]
        for record in due:
            of_id = {"of_id": record.file_id}
            if record.forget_at is not None and record.forget_at <= now:
                connection.execute(delete(files).where(_IS_FILE), of_id)
            else:
                connection.execute(
                    update(files).where(_IS_FILE).values(blob_key=None, due_at=record.forget_at), of_id
                )
            if record.origin == "upload" and record.blob_key is not None:
                count_usage(connection, record.workspace_id, -record.size_bytes)
        release(connection, counted([record.blob_key for record in due]))
        return len(due) == FILES_CLEAN_BATCH_MAX
