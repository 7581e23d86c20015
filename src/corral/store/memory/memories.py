"""Memories: one at a time, and lists by path."""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    String,
    bindparam,
    case,
    func,
    literal,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from corral.catalog.memory.paths import after, below, child_of
from corral.catalog.memory.ports import Actor, Memory, StoreKey
from corral.kernel.cursor import Page, decode, encode
from corral.kernel.ids import Ids, MemoryId
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.memory.change import Changing
from corral.store.memory.rows import (
    IS_STORE,
    MEMORY,
    MEMORY_WITH_CONTENT,
    check_store,
    key_values,
    memory_of,
    no_memory,
)
from corral.store.schema import memories, memory_stores

__all__ = ["MemoryTable"]


class _Position(GenericFunction[int]):
    """Where a text begins in another, from 1; 0 if it is not there. Each engine has its own name for it."""

    type = Integer()
    inherit_cache = True
    name = "strpos"


@compiles(_Position, "sqlite")
def _instr(element: _Position, compiler: Any, **options: Any) -> str:
    return f"instr{compiler.function_argspec(element, **options)}"


_THE_STORE = select(memory_stores.c.memory_store_id).where(IS_STORE).exists()
_IS_IT = memories.c.memory_id == bindparam("of_memory_id")
_READ = Query(MEMORY.where(_IS_IT, _THE_STORE))
_READ_CONTENT = Query(MEMORY_WITH_CONTENT.where(_IS_IT, _THE_STORE))

_START, _END = bindparam("start", type_=String), bindparam("end", type_=String)
_LIMIT = bindparam("at_most", type_=Integer)
_DEEP = (memories.c.path >= _START, memories.c.path < _END)
_AMONG = memories.c.path.in_(bindparam("paths", expanding=True))


def _first_from(start: ColumnElement[str]) -> ColumnElement[str]:
    """The first path of the store that is not before `start`: one step into the index."""
    return (
        select(memories.c.path)
        .where(memories.c.memory_store_id == bindparam("of_store_id"))
        .where(memories.c.path >= start, memories.c.path < _END)
        .order_by(memories.c.path)
        .limit(1)
        .scalar_subquery()
    )


def _first_paths() -> Any:
    """For a list of depth 1: the first path of each of its entries, by one step into the index for each,
    however much a directory holds. `from_char`: where names below the prefix begin, counted from 1."""
    from_char = bindparam("from_char", type_=Integer)
    entry = select(_first_from(_START).label("path"), literal(1).label("number")).cte(
        "entry", recursive=True
    )
    slash = _Position(func.substr(entry.c.path, from_char), literal("/"))
    # as catalog.memory.paths.after
    beyond = case(
        (slash > 0, func.substr(entry.c.path, 1, from_char + slash - 2).concat(literal("0"))),
        else_=entry.c.path.concat(literal("\x01")),
    )
    entry = entry.union_all(
        select(_first_from(beyond), entry.c.number + 1).where(
            entry.c.path.is_not(None), entry.c.number < _LIMIT
        )
    )
    return select(entry.c.path).where(entry.c.path.is_not(None)).order_by(entry.c.number)


_FIRST_PATHS = _first_paths()


class MemoryTable:
    """`catalog.memory.ports.Memories`."""

    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids

    async def create(self, at: StoreKey, *, path: str, content: str, actor: Actor) -> Memory:
        def body(connection: Connection) -> Memory:
            changing = Changing(self._database, connection, self._ids, at, actor)
            created = changing.create(path, content)
            changing.finish()
            return created

        return await self._database.write(body, checks_first=True)

    async def read(self, at: StoreKey, memory_id: MemoryId, *, has_content: bool) -> Memory:
        def body(connection: Connection) -> Memory:
            values = {**key_values(at), "of_memory_id": memory_id}
            row = (_READ_CONTENT if has_content else _READ).first(connection, values)
            if row is None:
                check_store(connection, at)
                raise no_memory(memory_id)
            return memory_of(row)

        return await self._database.look(body)

    async def update(
        self,
        at: StoreKey,
        memory_id: MemoryId,
        *,
        path: str | None,
        content: str | None,
        expected_sha256: str | None,
        actor: Actor,
    ) -> Memory:
        def body(connection: Connection) -> Memory:
            changing = Changing(self._database, connection, self._ids, at, actor)
            current = changing.memory(memory_id)
            changed = changing.modify(current, path=path, content=content, expected_sha256=expected_sha256)
            if changed is not current:
                changing.finish()
            return changed

        return await self._database.write(body, checks_first=True)

    async def delete(
        self, at: StoreKey, memory_id: MemoryId, *, expected_sha256: str | None, actor: Actor
    ) -> None:
        def body(connection: Connection) -> None:
            changing = Changing(self._database, connection, self._ids, at, actor)
            changing.remove(changing.memory(memory_id), expected_sha256=expected_sha256)
            changing.finish()

        await self._database.write(body, checks_first=True)

    async def page(
        self,
        at: StoreKey,
        *,
        prefix: str,
        depth: Literal[0, 1],
        limit: int,
        cursor: str | None,
        has_content: bool,
    ) -> Page[Memory | str]:
        kind = f"memories of {at.memory_store_id} at depth {depth} below {prefix}"
        start, end = below(prefix)
        if cursor is not None:
            start = max(start, after(decode(kind, cursor, shape=(str,))[0]))
        values: dict[str, Any] = {**key_values(at), "start": start, "end": end}
        shown = MEMORY_WITH_CONTENT if has_content else MEMORY

        def body(connection: Connection) -> Page[Memory | str]:
            check_store(connection, at)
            items: Sequence[Memory | str]
            if depth == 0:
                rows = connection.execute(
                    shown.where(*_DEEP).order_by(memories.c.path).limit(limit + 1), values
                ).all()
                items = [memory_of(row) for row in rows]
            else:
                first = connection.scalars(
                    _FIRST_PATHS, {**values, "from_char": len(prefix) + 1, "at_most": limit + 1}
                ).all()
                entries = [child_of(prefix, path) for path in first]
                files = [entry for entry in entries[:limit] if not entry.endswith("/")]
                rows = connection.execute(shown.where(_AMONG), {**values, "paths": files}).all()
                found = {row.path: memory_of(row) for row in rows}
                items = [found.get(entry, entry) for entry in entries]
            next_cursor = None
            if len(items) > limit:
                last = items[limit - 1]
                next_cursor = encode(kind, last if isinstance(last, str) else last.path)
            return Page(items=items[:limit], next_cursor=next_cursor)

        return await self._database.read(body)
