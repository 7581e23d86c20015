"""Versions of memories: what was, and who did it."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, bindparam, select, update

from corral.catalog.memory.ports import Actor, MemoryVersion, StoreKey, VersionFilter
from corral.kernel.cursor import Page, decode, encode
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import MemoryVersionId
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.memory.rows import (
    IS_STORE,
    VERSION,
    VERSION_WITH_CONTENT,
    check_store,
    key_values,
    no_store,
    version_of,
)
from corral.store.rows import AnySelect
from corral.store.schema import from_us, memories, memory_stores, memory_versions

__all__ = ["MemoryVersionTable"]

_THE_STORE = select(memory_stores.c.memory_store_id).where(IS_STORE).exists()
_IS_IT = memory_versions.c.memory_version_id == bindparam("of_version_id")
_READ = Query(VERSION.where(_IS_IT, _THE_STORE))
_READ_CONTENT = Query(VERSION_WITH_CONTENT.where(_IS_IT, _THE_STORE))
_LOCK_STORE = select(memory_stores.c.memory_store_id).where(IS_STORE).with_for_update()
_IS_HEAD = select(memories.c.memory_id).where(
    memories.c.memory_id == bindparam("of_memory_id"),
    memories.c.memory_version_id == bindparam("of_version_id"),
)
_change, _created_at = memory_versions.c.change, memory_versions.c.created_at
_CHANGES = select(_change).where(memory_versions.c.memory_store_id == bindparam("of_store_id")).limit(1)


class MemoryVersionTable:
    """`catalog.memory.ports.MemoryVersions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self, at: StoreKey, memory_version_id: MemoryVersionId, *, has_content: bool
    ) -> MemoryVersion:
        def body(connection: Connection) -> MemoryVersion:
            values = {**key_values(at), "of_version_id": memory_version_id}
            row = (_READ_CONTENT if has_content else _READ).first(connection, values)
            if row is None:
                check_store(connection, at)
                raise _no_version(memory_version_id)
            return version_of(row)

        return await self._database.look(body)

    async def page(
        self, at: StoreKey, *, only: VersionFilter, limit: int, cursor: str | None, has_content: bool
    ) -> Page[MemoryVersion]:
        kind = f"versions of {at.memory_store_id}"
        statement = _filtered(VERSION_WITH_CONTENT if has_content else VERSION, only)
        if cursor is not None:
            statement = statement.where(_change < decode(kind, cursor, shape=(int,))[0])

        def body(connection: Connection) -> Page[MemoryVersion]:
            check_store(connection, at)
            rows = connection.execute(
                statement.order_by(_change.desc()).limit(limit + 1), key_values(at)
            ).all()
            return Page(
                items=[version_of(row) for row in rows[:limit]],
                next_cursor=encode(kind, rows[limit - 1].change) if len(rows) > limit else None,
            )

        return await self._database.read(body)

    async def redact(
        self, at: StoreKey, memory_version_id: MemoryVersionId, *, actor: Actor
    ) -> MemoryVersion:
        def body(connection: Connection) -> MemoryVersion:
            if connection.execute(_LOCK_STORE, key_values(at)).first() is None:
                raise no_store(at)
            values = {**key_values(at), "of_version_id": memory_version_id}
            row = connection.execute(VERSION.where(_IS_IT), values).first()
            if row is None:
                raise _no_version(memory_version_id)
            if row.redacted_at is not None:
                return version_of(row)
            is_head = {"of_memory_id": row.memory_id, "of_version_id": memory_version_id}
            if connection.execute(_IS_HEAD, is_head).first() is not None:
                raise InvalidRequest(
                    f"Memory version {memory_version_id} is the current content of memory {row.memory_id}."
                    " Update or delete the memory, then redact this version."
                )
            connection.execute(
                update(memory_versions)
                .where(memory_versions.c.memory_version_id == memory_version_id)
                .values(
                    path=None,
                    content=None,
                    content_sha256=None,
                    content_size_bytes=None,
                    redacted_at=from_us(self._database.now_us(connection)),
                    redactor_type=actor.type,
                    redactor_id=actor.id,
                )
            )
            return version_of(connection.execute(VERSION.where(_IS_IT), values).one())

        return await self._database.write(body, checks_first=True)


def _filtered(statement: AnySelect, only: VersionFilter) -> AnySelect:
    if only.memory_id is not None:
        statement = statement.where(memory_versions.c.memory_id == only.memory_id)
    if only.operation is not None:
        statement = statement.where(memory_versions.c.operation == only.operation)
    for actor in only.actors:
        statement = statement.where(
            memory_versions.c.actor_id == actor.id, memory_versions.c.actor_type == actor.type
        )
    # Times never go back from one change to the next: a bound on time is one on changes, found in one step.
    if only.created_gte is not None:
        statement = statement.where(_change >= _first_since(only.created_gte))
    if only.created_lte is not None:
        statement = statement.where(_change <= _last_until(only.created_lte))
    return statement


def _first_since(moment: datetime) -> ColumnElement[int]:
    return _CHANGES.where(_created_at >= moment).order_by(_created_at, _change).scalar_subquery()


def _last_until(moment: datetime) -> ColumnElement[int]:
    newest_first = _CHANGES.order_by(_created_at.desc(), _change.desc())
    return newest_first.where(_created_at <= moment).scalar_subquery()


def _no_version(memory_version_id: MemoryVersionId) -> NotFound:
    return NotFound(f"Memory version {memory_version_id!r} was not found.")
