"""Putting an archive into an empty store and a blob store.

* The archive is read twice: first all of it is checked, then it is loaded. A damaged one changes nothing.
* From the first row to the last check the database says that it is not whole, where its schema's revision
  stands (`upgrade.RESTORING`): every version of Corral refuses to serve it. Killed in between, it stays so,
  until the restore is repeated, which begins anew.
* When all is loaded, the rows are read back and must come to the archive's sums. Then one transaction makes
  them live: epochs step above what any hands host has seen after the backup, sandboxes that were placed on
  hosts unknown here are placed nowhere, sessions whose checkpoint is missing have none. Whoever needed a
  brain still does, and goes on by itself.
"""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Engine, LargeBinary, delete, func, insert, select, update

from corral.catalog.blobs import BlobStore
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import SessionId
from corral.kernel.limits import RESTORE_EPOCH_STEP
from corral.store import schema
from corral.store.archive import BlobEnd, Manifest, TableSum, Told, members, silent, verify
from corral.store.backup import archived_tables, guarded, lines_of, open_engine
from corral.store.files.unneeded import forget_contents
from corral.store.upgrade import RESTORING, mark, revision, upgrade

__all__ = ["Restored", "restore"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What is live now. `unplaced`: sessions whose sandbox was on a host that is unknown here."""

    manifest: Manifest
    blobs: int
    unplaced: int
    missing: tuple[BlobEnd, ...]


class _Discarded(Exception):
    """The bytes that came before are no blob."""


async def restore(
    path: Path,
    where: str | Path,
    blobs: BlobStore,
    *,
    known_hosts: Collection[str] = (),
    told: Told = silent,
    before_live: Callable[[Sequence[SessionId]], Awaitable[None]] | None = None,
) -> Restored:
    """Load an archive into the empty store at `where` (made if it is not there), check it, make it live.

    known_hosts: ids of hands hosts that still have the workspaces of sessions that were placed there.
    before_live: told of every session that had a workspace, before anybody can go on with one.
    Repeat: after a failure or a kill it begins anew. Raises InvalidRequest (the archive), Conflict (the
    store is not empty), StoreUnavailable, BlobUnavailable.
    """
    manifest = await asyncio.to_thread(verify, path, told=told)
    if manifest.schema != schema.REVISION:
        raise InvalidRequest(
            f"{str(path)!r} has schema {manifest.schema} of Corral {manifest.corral}, this version has"
            f" {schema.REVISION}. Restore it with Corral {manifest.corral}, then upgrade that store."
        )
    names = {str(table.name) for table in archived_tables()}
    if others := names ^ manifest.tables.keys():
        raise InvalidRequest(f"{str(path)!r} lacks, or has too many, tables: {', '.join(sorted(others))}")
    if isinstance(where, Path):
        where.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        where.touch(mode=0o600)
    with ExitStack() as stack:
        engine = open_engine(where, writes=True)
        stack.callback(engine.dispose)
        await asyncio.to_thread(guarded, lambda: _begin(engine))
        loader = _Loader(engine, blobs, told)
        await loader.load(path)
        await asyncio.to_thread(_write, engine, lambda connection: _check(connection, manifest, told))
        if before_live is not None:
            await before_live(await asyncio.to_thread(_write, engine, _acted))
        unplaced = await asyncio.to_thread(
            _write, engine, lambda connection: loader.go_live(connection, known_hosts)
        )
    return Restored(
        manifest=manifest, blobs=loader.blobs_put, unplaced=unplaced, missing=tuple(loader.missing)
    )


def _begin(engine: Engine) -> None:
    """Empty, of this version's schema, and marked as not whole. Raises Conflict."""
    found = _write(engine, revision)
    if found is not None and found.startswith("restoring") and found != RESTORING:
        raise Conflict(
            "Another version of Corral was restoring into this database: finish with that one, or name"
            " another database."
        )
    if found not in (None, schema.REVISION, RESTORING):  # somebody's: not to be upgraded by the way
        raise Conflict(
            f"The store has schema {found}, so it is of another version. A backup is restored into an empty"
            " store only: name another --data-dir or another database."
        )
    if found is None:
        upgrade(engine)
    _write(engine, lambda connection: _empty(connection, is_ours=found == RESTORING))


def _empty(connection: Connection, *, is_ours: bool) -> None:
    for table in reversed(archived_tables()):
        if is_ours:  # of an earlier attempt
            connection.execute(delete(table))
        elif connection.execute(select(table).limit(1)).first() is not None:
            raise Conflict(
                f"The store is not empty: there are {table.name}. A backup is restored into an empty store"
                " only: name another --data-dir or another database."
            )
    mark(connection, RESTORING)


def _write(engine: Engine, body: Callable[[Connection], T]) -> T:
    """In one write transaction. Raises StoreUnavailable."""

    def run() -> T:
        with engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":  # its engine leaves BEGIN to us
                connection.exec_driver_sql("BEGIN")
                connection.exec_driver_sql(
                    "SET LOCAL statement_timeout = 0"
                )  # a large table takes its time
            return body(connection)

    return guarded(run)


class _Loader:
    def __init__(self, engine: Engine, blobs: BlobStore, told: Told) -> None:
        self._engine, self._blobs, self._told = engine, blobs, told
        self._tables = {table.name: table for table in archived_tables()}
        self._ends: list[BlobEnd] = []  # of blobs that are not what the row says
        self.missing: list[BlobEnd] = []
        self.blobs_put = 0

    async def load(self, path: Path) -> None:
        reading = _in_thread(members(path))
        async for name, data in reading:
            if name.startswith("tables/"):
                await asyncio.to_thread(self._insert, name.split("/")[1], data)
                self._told("rows", len(data))
            elif name.startswith("blobs/"):
                await self._put(name, data, reading)

    def _insert(self, name: str, data: bytes) -> None:
        table = self._tables[name]
        binary = [column.name for column in table.columns if isinstance(column.type, LargeBinary)]
        rows = [_decoded(line, binary) for line in data.splitlines()]
        _write(self._engine, lambda connection: connection.execute(insert(table), rows))

    async def _put(self, name: str, data: bytes, rest: AsyncIterator[tuple[str, bytes]]) -> None:
        """One blob: the member given, and those that follow up to its end."""
        key, _, part = name.removeprefix("blobs/").rpartition("/")
        end: BlobEnd | None = None

        async def parts() -> AsyncIterator[bytes]:
            nonlocal end
            at, more = part, data
            while at != "end":
                self._told("blobs", len(more))
                yield more
                following, more = await anext(rest)
                at = following.rpartition("/")[2]
            end = BlobEnd(**orjson.loads(more))
            if end.state in ("discarded", "missing"):
                raise _Discarded

        try:
            blob = await self._blobs.put(key, parts())
        except _Discarded:
            assert end is not None
            if end.state == "missing":
                self.missing.append(end)
            return
        assert end is not None
        if (blob.size_bytes, blob.sha256) != (end.size_bytes, end.sha256):
            raise InvalidRequest(f"blob {key!r} did not arrive as it is in the archive; restore again")
        self.blobs_put += 1
        if end.state == "replaced":
            self._ends.append(end)

    def go_live(self, connection: Connection, known_hosts: Collection[str]) -> int:
        """In one transaction: the store is whole, and nobody holds anything of the time before."""
        sessions, placements, checkpoints = (
            self._tables[table.name] for table in (schema.sessions, schema.placements, schema.checkpoints)
        )
        connection.execute(update(sessions).values(epoch=sessions.c.epoch + RESTORE_EPOCH_STEP))
        unknown = placements.c.host_id.not_in(known_hosts)
        unplaced = connection.scalar(select(func.count()).select_from(placements).where(unknown)) or 0
        connection.execute(delete(placements).where(unknown))
        for end in self.missing:
            if end.session_id:
                connection.execute(delete(checkpoints).where(checkpoints.c.session_id == end.session_id))
        forget_contents(connection, [end.key for end in self.missing if not end.session_id])
        for end in self._ends:
            assert end.row is not None
            connection.execute(
                update(checkpoints).where(checkpoints.c.session_id == end.session_id).values(**end.row)
            )
        mark(connection, schema.REVISION)
        return unplaced


def _check(connection: Connection, manifest: Manifest, told: Told) -> None:
    for table in archived_tables():
        digest, rows = sha256(), 0
        for line in lines_of(connection, table):
            digest.update(line)
            rows += 1
            told("comparing", len(line))
        found = TableSum(rows=rows, sha256=digest.hexdigest())
        expected = manifest.tables[table.name]
        if found != expected:
            raise InvalidRequest(
                f"Table {table.name!r} is not as it is in the archive: {found.rows} rows of"
                f" {expected.rows}, or their contents differ. The store stays marked as not whole; restore"
                " again."
            )


def _acted(connection: Connection) -> list[SessionId]:
    """As `Placements.has_acted`."""
    events = schema.events
    acted = select(events.c.session_id).where(events.c.type == "agent.tool_result").distinct()
    return [SessionId(session_id) for session_id in connection.scalars(acted)]


def _decoded(line: bytes, binary: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(line)
    for name in binary:
        if row[name] is not None:
            row[name] = b64decode(row[name])
    return row


async def _in_thread(found: Iterator[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
    while (member := await asyncio.to_thread(next, found, None)) is not None:
        yield member
