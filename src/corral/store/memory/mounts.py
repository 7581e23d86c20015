"""What a mounted store needs: all of it at once, many edits at once, and what others have changed."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, bindparam, select

from corral.catalog.memory.paths import check_content, check_path
from corral.catalog.memory.ports import (
    Actor,
    Applied,
    Change,
    Changes,
    Edit,
    Entry,
    Listing,
    Memory,
    Remove,
    Rename,
    StoreKey,
    Write,
)
from corral.kernel.errors import CallerError, MemoryPreconditionFailed
from corral.kernel.ids import Ids, MemoryId, MemoryStoreId
from corral.kernel.limits import MEMORY_CHANGES_MAX, MEMORY_EDITS_MAX
from corral.store.database import Database
from corral.store.memory.change import Changing
from corral.store.memory.rows import (
    IS_STORE,
    MEMORY_WITH_CONTENT,
    check_store,
    key_values,
    no_memory,
    no_store,
)
from corral.store.schema import memories, memory_stores, memory_versions

__all__ = ["MemoryMountTable"]

_HEAD = select(memory_stores.c.last_change, memory_stores.c.archived_at).where(IS_STORE)
_ENTRY = (
    memories.c.memory_id,
    memories.c.path,
    memories.c.content_sha256,
    memories.c.content_size_bytes,
)
_ENTRIES = (
    select(*_ENTRY).where(memories.c.memory_store_id == bindparam("of_store_id")).order_by(memories.c.path)
)
_CONTENTS = MEMORY_WITH_CONTENT.where(memories.c.memory_id.in_(bindparam("memory_ids", expanding=True)))
_SINCE = (
    select(memory_versions.c.memory_id.label("changed_id"), *_ENTRY)
    .join_from(
        memory_versions,
        memories,
        and_(
            memories.c.memory_id == memory_versions.c.memory_id,
            memories.c.memory_store_id == memory_versions.c.memory_store_id,
        ),
        isouter=True,
    )
    .where(
        memory_versions.c.memory_store_id == bindparam("of_store_id"),
        memory_versions.c.change > bindparam("after"),
    )
    .order_by(memory_versions.c.change)
)
_POSITIONS = select(
    memory_stores.c.workspace_id, memory_stores.c.memory_store_id, memory_stores.c.last_change
).where(memory_stores.c.memory_store_id.in_(bindparam("store_ids", expanding=True)))


class MemoryMountTable:
    """`catalog.memory.ports.MemoryMounts`."""

    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids

    async def listing(self, at: StoreKey) -> Listing:
        def body(connection: Connection) -> Listing:
            head = connection.execute(_HEAD, key_values(at)).first()
            if head is None:
                raise no_store(at)
            rows = connection.execute(_ENTRIES, key_values(at)).all()
            return Listing(
                change=head.last_change,
                is_archived=head.archived_at is not None,
                entries=[Entry(MemoryId(row.memory_id), *row[1:]) for row in rows],
            )

        return await self._database.read(body)

    async def contents(self, at: StoreKey, memory_ids: Sequence[MemoryId]) -> Mapping[MemoryId, bytes]:
        assert len(memory_ids) <= MEMORY_EDITS_MAX, "a mount asks for so many at a time"

        def body(connection: Connection) -> dict[MemoryId, bytes]:
            check_store(connection, at)
            values = {**key_values(at), "memory_ids": list(memory_ids)}
            rows = connection.execute(_CONTENTS, values).all()
            return {MemoryId(row.memory_id): bytes(row.content) for row in rows}

        return await self._database.read(body)

    async def apply(self, at: StoreKey, edits: Sequence[Edit], *, actor: Actor) -> Applied:
        assert len(edits) <= MEMORY_EDITS_MAX, "a mount sends so many at a time"

        def body(connection: Connection) -> Applied:
            changing = Changing(self._database, connection, self._ids, at, actor)
            before = changing.last_change
            results: list[Entry | CallerError | None] = []
            for edit in edits:
                try:
                    results.append(_edited(changing, edit))
                except CallerError as refusal:  # it has changed nothing, and the others need not wait
                    results.append(refusal)
            if changing.last_change != before:
                changing.finish()
            return Applied(change=changing.last_change, results=results)

        return await self._database.write(body, checks_first=True)

    async def changes(self, at: StoreKey, *, after: int) -> Changes:
        def body(connection: Connection) -> Changes:
            head = connection.execute(_HEAD, key_values(at)).first()
            if head is None:
                raise no_store(at)
            behind = head.last_change - after
            if behind == 0:
                return Changes(change=after, changes=[])
            if not 0 < behind <= MEMORY_CHANGES_MAX:
                return Changes(change=head.last_change, changes=None)
            rows = connection.execute(_SINCE, {**key_values(at), "after": after}).all()
            if len(rows) != behind:  # changes are numbered without gaps: some are forgotten
                return Changes(change=head.last_change, changes=None)
            latest = {
                row.changed_id: None if row.memory_id is None else Entry(MemoryId(row.memory_id), *row[2:])
                for row in rows
            }
            changes = [Change(MemoryId(memory_id), entry) for memory_id, entry in latest.items()]
            return Changes(change=head.last_change, changes=changes)

        return await self._database.read(body)

    async def positions(self, at: Sequence[StoreKey]) -> Mapping[MemoryStoreId, int]:
        def body(connection: Connection) -> dict[MemoryStoreId, int]:
            rows = connection.execute(_POSITIONS, {"store_ids": [key.memory_store_id for key in at]}).all()
            return {
                MemoryStoreId(row.memory_store_id): row.last_change
                for row in rows
                if (row.workspace_id, row.memory_store_id) in at
            }

        return await self._database.look(body) if at else {}


def _edited(changing: Changing, edit: Edit) -> Entry | None:
    """Raises CallerError, having changed nothing."""
    check_path(edit.path)
    current = changing.at_path(edit.path)
    if isinstance(edit, Write):
        content = check_content(edit.content)
        if current is not None:
            return _entry(changing.modify(current, content=content, expected_sha256=edit.expected_sha256))
        if edit.expected_sha256 is not None:
            raise MemoryPreconditionFailed(f"There is no memory at {edit.path!r} any more.")
        return _entry(changing.create(edit.path, content))
    if current is None:
        raise no_memory(edit.path)
    if isinstance(edit, Rename):
        check_path(edit.new_path)
        if edit.new_path == edit.path:
            return _entry(current)
        replaces = changing.at_path(edit.new_path)
        return _entry(changing.modify(current, path=edit.new_path, replaces=replaces))
    assert isinstance(edit, Remove)
    changing.remove(current, expected_sha256=edit.expected_sha256)
    return None


def _entry(memory: Memory) -> Entry:
    return Entry(memory.memory_id, memory.path, memory.content_sha256, memory.content_size_bytes)
