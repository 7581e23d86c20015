"""Files on the database, as the API and the outputs see them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, or_, select

from corral.catalog.files import FileFilter, FilePage, FileRecord
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import FileId, SessionId, WorkspaceId
from corral.kernel.limits import FILES_BYTES_MAX, SESSION_OUTPUTS_MAX, UPLOAD_GIVEN_UP_SECONDS
from corral.store.database import Database
from corral.store.files.blobs import count_usage, counted, expect_blob, name_blob, release, unexpect_blob
from corral.store.files.rows import FILE, file_of, insert_file, no_file, output_hash
from corral.store.locks import lock_sessions, one_of
from corral.store.reading import not_found
from corral.store.rows import AnyRow
from corral.store.schema import files, from_us, sessions

__all__ = ["FileRows"]

_IN_WORKSPACE = files.c.workspace_id == bindparam("of_workspace_id")
_THE_FILE = FILE.where(_IN_WORKSPACE, files.c.file_id == bindparam("of_id"))
_THE_FILE_LOCKED = _THE_FILE.with_for_update()
_THE_FILES = FILE.where(_IN_WORKSPACE, one_of(files.c.file_id, "of_ids"))
_OF_SESSION = files.c.scope_id == bindparam("of_session_id")
_THE_FILE_OF_SESSION = FILE.where(_OF_SESSION, files.c.file_id == bindparam("of_id"))
_OUTPUTS = FILE.where(_OF_SESSION, files.c.output_hash.is_not(None))
_OUTPUT = FILE.where(_OF_SESSION, files.c.output_hash == bindparam("of_hash"))
_OUTPUTS_AT = FILE.where(_OF_SESSION, one_of(files.c.output_hash, "of_hashes"))
_OUTPUT_COUNT = select(func.count()).where(_OF_SESSION, files.c.output_hash.is_not(None))
_DELETE = delete(files).where(files.c.file_id == bindparam("of_id"))
_WORKSPACE = select(sessions.c.workspace_id).where(sessions.c.session_id == bindparam("of_session_id"))
_FOR_SESSION = FILE.where(
    files.c.workspace_id == _WORKSPACE.scalar_subquery(), one_of(files.c.file_id, "of_ids")
)


class FileRows:
    """`catalog.files.FileTable`."""

    def __init__(
        self,
        database: Database,
        *,
        bytes_max: int = FILES_BYTES_MAX,
        outputs_max: int = SESSION_OUTPUTS_MAX,
    ) -> None:
        """bytes_max: of all uploads together. outputs_max: of one session."""
        self._database = database
        self._bytes_max = bytes_max
        self._outputs_max = outputs_max

    async def expect(self, blob_key: str) -> None:
        def body(connection: Connection) -> None:
            now = from_us(self._database.now_us(connection))
            expect_blob(connection, blob_key, give_up_at=now + timedelta(seconds=UPLOAD_GIVEN_UP_SECONDS))

        await self._database.write(body, locks=())

    async def unexpect(self, blob_key: str) -> None:
        await self._database.write(lambda connection: unexpect_blob(connection, blob_key))

    async def add(self, record: FileRecord) -> FileRecord:
        assert record.blob_key is not None
        blob_key = record.blob_key

        def body(connection: Connection) -> FileRecord:
            name_blob(connection, blob_key)
            own, usage = count_usage(connection, record.workspace_id, record.size_bytes)
            if usage > self._bytes_max:  # what others have of it is their affair
                raise InvalidRequest(
                    f"There is no room for {record.size_bytes} more bytes beside the uploaded files of this"
                    f" workspace ({own - record.size_bytes} bytes), and those of others on this server."
                    " Delete some, then send it again.",
                    error_code="storage_quota_exceeded",
                )
            insert_file(connection, record)
            return record

        return await self._database.write(body)

    async def put_output(self, record: FileRecord) -> FileRecord:
        session_id, blob_key = record.scope_id, record.blob_key
        assert session_id is not None and blob_key is not None and record.output_path is not None
        path_hash = output_hash(record.output_path)
        values = {"of_session_id": session_id}

        def body(connection: Connection) -> FileRecord:
            lock_sessions(connection, [session_id])
            workspace_id = connection.scalar(_WORKSPACE, values)
            if workspace_id is None:
                raise not_found(connection, session_id)
            row = connection.execute(_OUTPUT, {**values, "of_hash": path_hash}).first()
            earlier = None if row is None else file_of(row)
            if earlier is not None and _is_same(earlier, record):
                return earlier
            if earlier is None and (connection.scalar(_OUTPUT_COUNT, values) or 0) >= self._outputs_max:
                raise InvalidRequest(
                    f"Session {session_id} has put out {self._outputs_max} files; more are not kept."
                )
            name_blob(connection, blob_key)
            if earlier is not None:
                _remove(connection, [earlier])
            created = replace(record, workspace_id=WorkspaceId(workspace_id))
            insert_file(connection, created)
            return created

        return await self._database.write(body)

    async def remove_outputs(self, session_id: SessionId, output_paths: Sequence[str]) -> None:
        def body(connection: Connection) -> None:
            lock_sessions(connection, [session_id])
            values = {
                "of_session_id": session_id,
                "of_hashes": [output_hash(path) for path in output_paths],
            }
            _remove(connection, [file_of(row) for row in connection.execute(_OUTPUTS_AT, values)])

        if output_paths:
            await self._database.write(body)

    async def outputs(self, session_id: SessionId) -> Mapping[str, FileRecord]:
        rows = await self._database.read(
            lambda connection: connection.execute(_OUTPUTS, {"of_session_id": session_id}).all()
        )
        return {row.output_path: file_of(row) for row in rows}

    async def read(self, workspace_id: WorkspaceId, file_id: FileId) -> FileRecord:
        values = {"of_workspace_id": workspace_id, "of_id": file_id}
        row = await self._database.look(lambda connection: connection.execute(_THE_FILE, values).first())
        return _found(row, file_id)

    async def read_all(
        self, workspace_id: WorkspaceId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        values = {"of_workspace_id": workspace_id, "of_ids": sorted(set(file_ids))}
        rows = await self._database.read(
            lambda connection: connection.execute(_THE_FILES, values).all() if file_ids else []
        )
        return {FileId(row.file_id): file_of(row) for row in rows}

    async def for_session(
        self, session_id: SessionId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        values = {"of_session_id": session_id, "of_ids": list(file_ids)}
        rows = await self._database.read(
            lambda connection: connection.execute(_FOR_SESSION, values).all() if file_ids else []
        )
        return {FileId(row.file_id): file_of(row) for row in rows}

    async def of_session(self, session_id: SessionId, file_id: FileId) -> FileRecord:
        values = {"of_session_id": session_id, "of_id": file_id}
        row = await self._database.look(
            lambda connection: connection.execute(_THE_FILE_OF_SESSION, values).first()
        )
        return _found(row, file_id)

    async def page(
        self,
        workspace_id: WorkspaceId,
        where: FileFilter,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> FilePage:
        statement = FILE.where(_IN_WORKSPACE)
        if where.scope_id is not None:
            statement = statement.where(files.c.scope_id == where.scope_id)
        if where.unscoped_only:
            statement = statement.where(files.c.scope_id.is_(None))
        place = after or before
        if place is not None:
            statement = statement.where(_beyond(place, newer=before is not None))
        columns = (files.c.created_at, files.c.file_id)
        order = [column.asc() if before is not None else column.desc() for column in columns]

        def body(connection: Connection) -> FilePage:
            rows = connection.execute(
                statement.order_by(*order).limit(limit + 1), {"of_workspace_id": workspace_id}
            ).all()
            found = [file_of(row) for row in rows[:limit]]
            return FilePage(files=found[::-1] if before is not None else found, has_more=len(rows) > limit)

        return await self._database.read(body)

    async def delete(self, workspace_id: WorkspaceId, file_id: FileId) -> None:
        def body(connection: Connection) -> None:
            values = {"of_workspace_id": workspace_id, "of_id": file_id}
            record = _found(connection.execute(_THE_FILE_LOCKED, values).first(), file_id)
            if record.origin == "mount":
                raise Conflict(
                    f"File {file_id!r} is mounted in session {record.scope_id}, and goes with its resource:"
                    " delete that one."
                )
            _remove(connection, [record])

        await self._database.write(body, checks_first=True)


def _is_same(earlier: FileRecord, record: FileRecord) -> bool:
    return (
        earlier.blob_key is not None
        and (earlier.size_bytes, earlier.sha256) == (record.size_bytes, record.sha256)
        and earlier.mime_type == record.mime_type
    )


def _remove(connection: Connection, records: Sequence[FileRecord]) -> None:
    """These rows, and what they count for."""
    for record in records:
        connection.execute(_DELETE, {"of_id": record.file_id})
        if record.origin == "upload" and record.blob_key is not None:
            count_usage(connection, record.workspace_id, -record.size_bytes)
    release(connection, counted([record.blob_key for record in records]))


def _found(row: AnyRow | None, file_id: str) -> FileRecord:
    if row is None:
        raise no_file(file_id)
    return file_of(row)


def _beyond(place: tuple[datetime, str], *, newer: bool) -> ColumnElement[bool]:
    """The first condition alone says where in the index to begin."""
    created_at, file_id = place
    created, id_ = files.c.created_at, files.c.file_id
    if newer:
        return and_(created >= created_at, or_(created > created_at, id_ > file_id))
    return and_(created <= created_at, or_(created < created_at, id_ < file_id))
