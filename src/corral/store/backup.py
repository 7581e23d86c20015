"""Copying a store and its blobs into an archive, while the server runs.

* One read transaction sees all tables: every row is of the same moment. Rows are read by primary key, a
  page at a time; nothing is locked. SQLite keeps its write-ahead log for as long as that takes.
* Blobs that the rows name are copied afterwards. A checkpoint that is gone by then was replaced by a newer
  one: that one is taken, and said so (`BlobEnd`). Or its session, or the file, was deleted: it is missing,
  and said so.
* What is alive is not copied: nodes, who holds which lease, bookkeeping of connections.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import orjson
from sqlalchemy import Column, Connection, Engine, MetaData, Table, TypeDecorator, select, tuple_
from sqlalchemy.exc import DBAPIError

from corral import __version__
from corral.catalog.blobs import BlobStore
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.limits import ARCHIVE_MEMBER_BYTES, BACKUP_PAGE_ROWS, BACKUP_REPLACED_MAX
from corral.store import schema
from corral.store.archive import FORMAT, ArchiveWriter, BlobEnd, Manifest, Told, as_line, silent
from corral.store.engine import postgres_engine, sqlite_engine, target, unavailable
from corral.store.upgrade import require

__all__ = ["LEFT_OUT", "archived_tables", "back_up", "guarded", "lines_of", "open_engine", "raw", "read"]

T = TypeVar("T")
Row = Mapping[str, Any]

LEFT_OUT: Final[Mapping[str, str]] = {
    "credential_refreshes": "who refreshes tokens now",
    "credential_validations": "what somebody waits for now",
    "nodes": "who serves now",
    "workers": "who polls for work now",
    "writers": "the last transactions of connections that are open now",
}
"""Tables that no archive has, and why."""

_NAME_BLOBS: Final = (schema.files, schema.skill_versions)
"""Tables whose rows name blobs that never change, by `blob_key`, `size_bytes` and `sha256`; several may
name the same. Checkpoints do so as well, and are replaced."""


async def back_up(
    where: str | Path, blobs: BlobStore, path: Path, *, now: datetime, told: Told = silent
) -> Manifest:
    """Copy the store at `where` (a SQLite file or a database URL) and the blobs it names into a new file.

    The file appears when it is whole and on disk. Raises InvalidRequest (no store there, the file cannot be
    written), StoreUnavailable (one of another version, too), BlobUnavailable; no file is left then.
    """
    with ExitStack() as stack:
        engine = open_engine(where, writes=False)
        stack.callback(engine.dispose)
        await asyncio.to_thread(guarded, lambda: require(engine))
        archive = stack.enter_context(ArchiveWriter(path))
        named = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
        manifest = Manifest(
            format=FORMAT,
            corral=__version__,
            schema=schema.REVISION,
            engine=engine.dialect.name,
            taken_at=rfc3339(now),
        )

        def copy_tables(connection: Connection) -> None:
            archive.add_header(manifest)
            for table in archived_tables():
                name = str(table.name)
                manifest.tables[name] = archive.add_rows(name, _told(lines_of(connection, table), told))
            for row in rows_of(connection, raw(schema.checkpoints)):
                named.write(as_line(row))
            for row in _named_by(connection):
                named.write(as_line(row))

        await asyncio.to_thread(read, engine, copy_tables)
        named.seek(0)
        await _Blobs(engine, blobs, archive, manifest, told).copy(named)
        await asyncio.to_thread(archive.finish, manifest)
    return manifest


class _Blobs:
    def __init__(
        self, engine: Engine, blobs: BlobStore, archive: ArchiveWriter, manifest: Manifest, told: Told
    ) -> None:
        self._engine, self._blobs, self._archive = engine, blobs, archive
        self._manifest, self._told = manifest, told
        self._ends = sha256()

    async def copy(self, named: Iterator[bytes]) -> None:
        for line in named:
            row = orjson.loads(line)
            await (self._copy_newest(row) if row["session_id"] else self._copy_fixed(row))
        self._manifest.blobs_sha256 = self._ends.hexdigest()

    async def _copy_newest(self, asked: Row) -> None:
        """The checkpoint of the row, or the one that has replaced it."""
        row: Row | None = asked
        reason = "its session was deleted while the backup ran"
        for _ in range(BACKUP_REPLACED_MAX):
            assert row is not None
            if await self._copy_one(row, is_newer=row != asked):
                return
            tried, row = row, await asyncio.to_thread(self._newest, asked["session_id"])
            if row is None:
                break
            if row["blob_key"] == tried["blob_key"]:
                reason = "the store names it, but the blob store has no such bytes"
                break
        await self._end(asked, "missing", size=0, digest=sha256().hexdigest(), parts=0, reason=reason)

    async def _copy_fixed(self, row: Row) -> None:
        if not await self._copy_one(row, is_newer=False):
            reason = "it was deleted while the backup ran, or the blob store has no such bytes"
            await self._end(row, "missing", size=0, digest=sha256().hexdigest(), parts=0, reason=reason)

    async def _copy_one(self, row: Row, *, is_newer: bool) -> bool:
        """Whether the blob was there, all of it, and as its row says."""
        key, digest, size, parts = str(row["blob_key"]), sha256(), 0, 0
        waiting = bytearray()

        async def write() -> None:
            nonlocal parts
            await asyncio.to_thread(self._archive.add, f"blobs/{key}/{parts:08}", bytes(waiting))
            parts += 1
            waiting.clear()

        problem = ""
        try:
            async for chunk in self._blobs.get(key):
                digest.update(chunk)
                size += len(chunk)
                waiting += chunk
                self._told("blobs", len(chunk))
                if len(waiting) >= ARCHIVE_MEMBER_BYTES:
                    await write()
        except NotFound:
            if not size:
                return False
            problem = "it was removed while it was read"
        if waiting:
            await write()
        sums: dict[str, Any] = {"size": size, "digest": digest.hexdigest(), "parts": parts}
        if not problem and (size, digest.hexdigest()) != (row["size_bytes"], row["sha256"]):
            problem = "its bytes are not those that the store names"
        if problem:
            await self._end(row, "discarded", reason=problem, **sums)
            return False
        await self._end(row, "replaced" if is_newer else "copied", row=row if is_newer else None, **sums)
        return True

    async def _end(
        self,
        about: Row,
        state: Literal["copied", "replaced", "missing", "discarded"],
        *,
        size: int,
        digest: str,
        parts: int,
        reason: str = "",
        row: Row | None = None,
    ) -> None:
        end = BlobEnd(
            key=str(about["blob_key"]),
            session_id=str(about["session_id"]),
            size_bytes=size,
            sha256=digest,
            parts=parts,
            state=state,
            reason=reason,
            row=row,
        )
        data = orjson.dumps(asdict(end))
        self._ends.update(data)
        await asyncio.to_thread(self._archive.add, f"blobs/{end.key}/end", data)
        if state in ("copied", "replaced"):
            self._manifest.blobs += 1
            self._manifest.blob_bytes += size
        self._manifest.blobs_replaced += state == "replaced"
        self._manifest.blobs_missing += state == "missing"

    def _newest(self, session_id: str) -> Row | None:
        table = raw(schema.checkpoints)
        statement = select(table).where(table.c.session_id == session_id)

        def body(connection: Connection) -> Row | None:
            row = connection.execute(statement).first()
            return None if row is None else {str(name): value for name, value in row._mapping.items()}

        return read(self._engine, body)


# -- rows as they are stored, for both directions ---------------------------------------------------------


def archived_tables() -> list[Table]:
    """Parents before those that refer to them, with the columns as the engine has them: no JSON is read and
    written again on the way."""
    return [raw(table) for table in schema.metadata.sorted_tables if table.name not in LEFT_OUT]


def raw(table: Table) -> Table:
    columns: list[Column[Any]] = []
    for column in table.columns:
        kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
        columns.append(Column(column.name, kind, primary_key=column.primary_key, autoincrement=False))
    return Table(table.name, MetaData(), *columns)


def rows_of(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    """All rows by primary key, a page at a time; without what is alive."""
    keys = list(table.primary_key.columns)
    names = [str(column.name) for column in table.columns]
    statement = select(table).order_by(*keys).limit(BACKUP_PAGE_ROWS)
    page = connection.execute(statement).all()
    while page:
        for row in page:
            yield _settled(table, dict(zip(names, row, strict=True)))
        if len(page) < BACKUP_PAGE_ROWS:
            return
        last = tuple(getattr(page[-1], key.name) for key in keys)
        page = connection.execute(statement.where(tuple_(*keys) > last)).all()


def _named_by(connection: Connection) -> Iterator[dict[str, Any]]:
    """Each blob once, as a checkpoint's row without a session."""
    seen: set[str] = set()
    for table in _NAME_BLOBS:
        for row in rows_of(connection, raw(table)):
            key = row["blob_key"]
            if key is not None and key not in seen:
                seen.add(key)
                yield {
                    "session_id": "",
                    "blob_key": key,
                    "size_bytes": row["size_bytes"],
                    "sha256": row["sha256"],
                }


def lines_of(connection: Connection, table: Table) -> Iterator[bytes]:
    return map(as_line, rows_of(connection, table))


def _settled(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A lease is of this moment and these processes: nobody holds one in an archive."""
    return {**row, "owner": None, "lease_until": 0} if table.name == schema.sessions.name else row


def _told(lines: Iterator[bytes], told: Told) -> Iterator[bytes]:
    for line in lines:
        told("rows", len(line))
        yield line


def open_engine(where: str | Path, *, writes: bool) -> Engine:
    """Raises InvalidRequest: no database is there; StoreUnavailable: the URL or the driver."""
    place = target(where)
    if isinstance(place, Path):
        if not writes and not place.exists():
            raise InvalidRequest(f"there is no database {str(place)!r}; name another --data-dir")
        return sqlite_engine(place, writes=writes)
    return postgres_engine(place, writes=writes, connections=1)


def read(engine: Engine, body: Callable[[Connection], T]) -> T:
    """In one read transaction, which sees one snapshot. Raises StoreUnavailable."""

    def run() -> T:
        with engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":  # it waits for the archive's disk, or for S3
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            return body(connection)

    return guarded(run)


def guarded(action: Callable[[], T]) -> T:
    """Raises StoreUnavailable for what the database says."""
    try:
        return action()
    except DBAPIError as error:
        raise unavailable(error) from error
