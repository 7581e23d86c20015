"""Memory stores themselves: bodies as the wire shows them."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, update

from corral.catalog.memory.ports import StoreKey
from corral.catalog.memory.stores import archived
from corral.catalog.records import Wire
from corral.kernel.clock import parse_rfc3339
from corral.kernel.cursor import Page
from corral.kernel.ids import WorkspaceId
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.memory.rows import IS_STORE, STORE, key_values, no_store
from corral.store.newest_first import NewestFirst
from corral.store.schema import from_us, memory_stores, memory_stores_deleted

__all__ = ["MemoryStoreTable"]

_READ = Query(STORE.where(IS_STORE))
_LOCKED = STORE.where(IS_STORE).with_for_update()
_IN_WORKSPACE = STORE.where(memory_stores.c.workspace_id == bindparam("of_workspace_id"))
_STORES = NewestFirst(kind=memory_stores.name, id_=memory_stores.c.memory_store_id)


class MemoryStoreTable:
    """`catalog.memory.ports.MemoryStores`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, workspace_id: WorkspaceId, store: Wire) -> None:
        def body(connection: Connection) -> None:
            created_at = parse_rfc3339(store["created_at"])
            connection.execute(
                insert(memory_stores),
                {
                    "memory_store_id": store["id"],
                    "workspace_id": workspace_id,
                    "body": store,
                    "created_at": created_at,
                    "archived_at": None,
                    "memories": 0,
                    "last_change": 0,
                    "changed_at": created_at,
                },
            )

        await self._database.write(body, locks=())

    async def read(self, at: StoreKey) -> Wire:
        def body(connection: Connection) -> Wire:
            row = _READ.first(connection, key_values(at))
            if row is None:
                raise no_store(at)
            found: Wire = row.body
            return found

        return await self._database.look(body)

    async def update(self, at: StoreKey, change: Callable[[Wire], Wire]) -> Wire:
        def body(connection: Connection) -> Wire:
            current = _locked(connection, at)
            changed = change(current)
            if changed != current:
                archived_at = changed["archived_at"]
                connection.execute(
                    update(memory_stores)
                    .where(memory_stores.c.memory_store_id == at.memory_store_id)
                    .values(
                        body=changed,
                        archived_at=None if archived_at is None else parse_rfc3339(archived_at),
                    )
                )
            return changed

        return await self._database.write(body, checks_first=True)

    async def archive(self, at: StoreKey, *, now: datetime) -> Wire:
        return await self.update(at, lambda current: archived(current, now=now))

    async def delete(self, at: StoreKey) -> None:
        def body(connection: Connection) -> None:
            _locked(connection, at)
            connection.execute(
                delete(memory_stores).where(memory_stores.c.memory_store_id == at.memory_store_id)
            )
            connection.execute(
                insert(memory_stores_deleted),
                {
                    "memory_store_id": at.memory_store_id,
                    "workspace_id": at.workspace_id,
                    "deleted_at": from_us(self._database.now_us(connection)),
                },
            )

        await self._database.write(body, checks_first=True)

    async def page(
        self,
        workspace_id: WorkspaceId,
        *,
        limit: int,
        cursor: str | None,
        include_archived: bool,
        created_gte: datetime | None = None,
        created_lte: datetime | None = None,
    ) -> Page[Wire]:
        created_at = memory_stores.c.created_at
        statement = _STORES.behind(_IN_WORKSPACE, cursor)
        if not include_archived:
            statement = statement.where(memory_stores.c.archived_at.is_(None))
        if created_gte is not None:
            statement = statement.where(created_at >= created_gte)
        if created_lte is not None:
            statement = statement.where(created_at <= created_lte)
        of_workspace = {"of_workspace_id": workspace_id}
        return await self._database.read(
            lambda connection: _STORES.page(
                connection, statement, of_workspace, limit=limit, item=lambda row: row.body
            )
        )


def _locked(connection: Connection, at: StoreKey) -> Wire:
    row = connection.execute(_LOCKED, key_values(at)).first()
    if row is None:
        raise no_store(at)
    found: Wire = row.body
    return found
