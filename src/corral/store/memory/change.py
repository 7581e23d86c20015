"""Changing memories of one store, under its row's lock: each change is checked, numbered, written here."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, bindparam, delete, insert, literal_column, select, update

from corral.catalog.memory.paths import above, below, content_sha256
from corral.catalog.memory.ports import Actor, Memory, Operation, StoreKey
from corral.catalog.memory.stores import refuse_archived
from corral.kernel.errors import MemoryPathConflict, MemoryPreconditionFailed, MemoryRefused
from corral.kernel.ids import MEMORY, MEMORY_VERSION, Ids, MemoryId, MemoryVersionId
from corral.kernel.limits import MEMORIES_PER_STORE_MAX, MEMORY_VERSION_DAYS, MEMORY_VERSIONS_KEPT
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.memory.rows import (
    IS_STORE,
    MEMORY_WITH_CONTENT,
    key_values,
    memory_of,
    no_memory,
    no_store,
)
from corral.store.schema import from_us, memories, memory_stores, memory_versions

__all__ = ["Changing"]

_LOCK = (
    select(
        memory_stores.c.archived_at,
        memory_stores.c.memories,
        memory_stores.c.last_change,
        memory_stores.c.changed_at,
    )
    .where(IS_STORE)
    .with_for_update()
)
_BY_ID = Query(MEMORY_WITH_CONTENT.where(memories.c.memory_id == bindparam("of_memory_id")))
_AT_PATH = Query(MEMORY_WITH_CONTENT.where(memories.c.path == bindparam("of_path")))
_OTHERS = select(memories.c.memory_id, memories.c.path).where(
    memories.c.memory_store_id == bindparam("of_store_id")
)
_AT = Query(_OTHERS.where(memories.c.path == bindparam("of_path")))
_ABOVE = _OTHERS.where(memories.c.path.in_(bindparam("paths", expanding=True)))
_BELOW = Query(
    _OTHERS.where(memories.c.path >= bindparam("start"), memories.c.path < bindparam("end"))
    .order_by(memories.c.path)
    .limit(literal_column("3"))  # two of them may be those that make room
)
_KEEPABLE = memory_versions.c.forget_after.is_(None)
_OF_MEMORY = (memory_versions.c.memory_store_id == bindparam("of_store_id")) & (
    memory_versions.c.memory_id == bindparam("of_memory_id")
)
_SURPLUS = (
    select(memory_versions.c.change, memory_versions.c.created_at)
    .where(_OF_MEMORY)
    .order_by(memory_versions.c.change.desc())
    .limit(1)
    .offset(MEMORY_VERSIONS_KEPT)
)
_KEPT = timedelta(days=MEMORY_VERSION_DAYS)


class Changing:
    """One transaction's changes of one store. `finish` must be called if anything was changed.

    Every method that changes something raises before it has written anything, or not at all.
    """

    def __init__(
        self, database: Database, connection: Connection, ids: Ids, at: StoreKey, actor: Actor
    ) -> None:
        """Locks the store. Raises NotFound."""
        row = connection.execute(_LOCK, key_values(at)).first()
        if row is None:
            raise no_store(at)
        self._connection = connection
        self._ids = ids
        self._at = at
        self._actor = actor
        self.is_archived = row.archived_at is not None
        self._memories: int = row.memories
        self.last_change: int = row.last_change
        # PostgreSQL's clock stood still while we waited for the lock.
        self._now = max(from_us(database.now_us(connection)), row.changed_at)

    def memory(self, memory_id: MemoryId) -> Memory:
        """With its content. Raises NotFound."""
        values = {**key_values(self._at), "of_memory_id": memory_id}
        row = _BY_ID.first(self._connection, values)
        if row is None:
            raise no_memory(memory_id)
        return memory_of(row)

    def at_path(self, path: str) -> Memory | None:
        """With its content."""
        row = _AT_PATH.first(self._connection, {**key_values(self._at), "of_path": path})
        return None if row is None else memory_of(row)

    def check_writable(self) -> None:
        """Raises MemoryRefused."""
        refuse_archived(self._at.memory_store_id, is_archived=self.is_archived)

    def create(self, path: str, content: str) -> Memory:
        """Raises MemoryRefused, MemoryPathConflict."""
        self.check_writable()
        self._check_free(path, but=[])
        if self._memories >= MEMORIES_PER_STORE_MAX:
            raise MemoryRefused(
                f"Memory store {self._at.memory_store_id} has {self._memories} memories, which is the most."
                " Delete some, or put more into one.",
                errno="ENOSPC",
            )
        data = content.encode()
        memory = Memory(
            memory_id=MemoryId(self._ids.mint(MEMORY)),
            memory_store_id=self._at.memory_store_id,
            path=path,
            content=content,
            content_sha256=content_sha256(data),
            content_size_bytes=len(data),
            memory_version_id=self._new_version_id(),
            created_at=self._now,
            updated_at=self._now,
        )
        self._add_version(memory, "created")
        self._connection.execute(
            insert(memories),
            {
                "memory_id": memory.memory_id,
                "workspace_id": self._at.workspace_id,
                "memory_store_id": memory.memory_store_id,
                "created_at": memory.created_at,
                **self._head(memory),
            },
        )
        self._memories += 1
        return memory

    def modify(
        self,
        current: Memory,
        *,
        path: str | None = None,
        content: str | None = None,
        expected_sha256: str | None = None,
        replaces: Memory | None = None,
    ) -> Memory:
        """None keeps; what changes nothing returns `current`. `replaces`: is deleted, if it comes to that.

        Raises MemoryRefused, MemoryPreconditionFailed, MemoryPathConflict.
        """
        self.check_writable()
        path = current.path if path is None else path
        content = current.content if content is None else content
        assert content is not None
        if (path, content) == (current.path, current.content):
            return current
        check_expected(current, expected_sha256)
        if path != current.path:
            self._check_free(path, but=[current, *([replaces] if replaces else [])])
        if replaces is not None:
            self.remove(replaces)
        data = content.encode()
        memory = Memory(
            memory_id=current.memory_id,
            memory_store_id=current.memory_store_id,
            path=path,
            content=content,
            content_sha256=content_sha256(data),
            content_size_bytes=len(data),
            memory_version_id=self._new_version_id(),
            created_at=current.created_at,
            updated_at=self._now,
        )
        self._add_version(memory, "modified")
        self._connection.execute(
            update(memories).where(memories.c.memory_id == memory.memory_id).values(**self._head(memory))
        )
        self._release_surplus(memory.memory_id)
        return memory

    def remove(self, current: Memory, *, expected_sha256: str | None = None) -> None:
        """Raises MemoryPreconditionFailed."""
        check_expected(current, expected_sha256)
        self.last_change += 1
        self._connection.execute(
            insert(memory_versions),
            {
                **self._new_version(current, "deleted"),
                "memory_version_id": self._new_version_id(),
                "content": None,
                "content_sha256": None,
                "content_size_bytes": None,
            },
        )
        # What was kept because it is recent can still be read for as long as the deletion can.
        self._connection.execute(
            update(memory_versions).where(_OF_MEMORY, _KEEPABLE).values(forget_after=self._now + _KEPT),
            {**key_values(self._at), "of_memory_id": current.memory_id},
        )
        self._connection.execute(delete(memories).where(memories.c.memory_id == current.memory_id))
        self._memories -= 1

    def finish(self) -> None:
        """Write down where the store is now."""
        self._connection.execute(
            update(memory_stores)
            .where(memory_stores.c.memory_store_id == self._at.memory_store_id)
            .values(memories=self._memories, last_change=self.last_change, changed_at=self._now)
        )

    def _check_free(self, path: str, *, but: Sequence[Memory]) -> None:
        """Nothing is at the path, above it, or below it, besides `but`. Raises MemoryPathConflict."""
        start, end = below(path + "/")
        values = {**key_values(self._at), "of_path": path, "start": start, "end": end}
        found = [*_AT.all(self._connection, values), *_BELOW.all(self._connection, values)]
        if directories := above(path):
            found += self._connection.execute(_ABOVE, {**values, "paths": directories}).all()
        making_room = {memory.memory_id for memory in but}
        for row in found:
            if row.memory_id not in making_room:
                raise MemoryPathConflict(
                    path, conflicting_memory_id=row.memory_id, conflicting_path=row.path
                )

    def _add_version(self, memory: Memory, operation: Operation) -> None:
        self.last_change += 1
        assert memory.content is not None
        row = {**self._new_version(memory, operation), "content": memory.content.encode()}
        self._connection.execute(insert(memory_versions), row)

    def _new_version(self, memory: Memory, operation: Operation) -> dict[str, object]:
        return {
            "memory_store_id": self._at.memory_store_id,
            "change": self.last_change,
            "workspace_id": self._at.workspace_id,
            "memory_version_id": memory.memory_version_id,
            "memory_id": memory.memory_id,
            "operation": operation,
            "path": memory.path,
            "content_sha256": memory.content_sha256,
            "content_size_bytes": memory.content_size_bytes,
            "created_at": self._now,
            "actor_type": self._actor.type,
            "actor_id": self._actor.id,
        }

    def _head(self, memory: Memory) -> dict[str, object]:
        """What of a memory changes."""
        return {
            "path": memory.path,
            "change": self.last_change,
            "memory_version_id": memory.memory_version_id,
            "content_sha256": memory.content_sha256,
            "content_size_bytes": memory.content_size_bytes,
            "updated_at": memory.updated_at,
        }

    def _release_surplus(self, memory_id: MemoryId) -> None:
        """One version more, so one that is no longer among the last."""
        surplus = self._connection.execute(
            _SURPLUS, {**key_values(self._at), "of_memory_id": memory_id}
        ).first()
        if surplus is not None:
            self._connection.execute(
                update(memory_versions)
                .where(
                    memory_versions.c.memory_store_id == self._at.memory_store_id,
                    memory_versions.c.change == surplus.change,
                )
                .values(forget_after=surplus.created_at + _KEPT)
            )

    def _new_version_id(self) -> MemoryVersionId:
        return MemoryVersionId(self._ids.mint(MEMORY_VERSION))


def check_expected(current: Memory, expected_sha256: str | None) -> None:
    """Raises MemoryPreconditionFailed."""
    if expected_sha256 is not None and expected_sha256 != current.content_sha256:
        raise MemoryPreconditionFailed(
            f"Memory {current.memory_id} has content_sha256 {current.content_sha256},"
            f" not {expected_sha256}. Read it again, then decide."
        )
