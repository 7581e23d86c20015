"""Resources of sessions on the database: one list, in the session's row of details."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, bindparam, select, update

from corral.catalog.repositories import SealedToken
from corral.kernel.clock import Clock
from corral.kernel.errors import Conflict, NotFound
from corral.kernel.ids import FileId, ResourceId, SessionId
from corral.session.record import SessionRecord
from corral.session.resources import NewResource, Resource
from corral.store.accept import lock_record
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.files.session import copy_to_session, delete_of_session
from corral.store.reading import not_found
from corral.store.repository_tokens import replace_token
from corral.store.rows import resources_of, stored_resources
from corral.store.schema import session_details, sessions

__all__ = ["Resources"]

_READ = Query(
    select(session_details.c.resources).where(session_details.c.session_id == bindparam("of_session_id"))
)
_REPLACE = update(session_details).where(session_details.c.session_id == bindparam("of_session_id"))
_TOUCH = update(sessions).where(sessions.c.session_id == bindparam("of_session_id"))


class Resources:
    """`session.resources.SessionResources`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def of_session(self, session_id: SessionId) -> Sequence[Resource]:
        def body(connection: Connection) -> Sequence[Resource]:
            row = _READ.first(connection, {"of_session_id": session_id})
            if row is None:
                raise not_found(connection, session_id)
            return resources_of(row.resources)

        return await self._database.look(body)

    async def add(
        self,
        session_id: SessionId,
        new: NewResource,
        check: Callable[[Sequence[Resource]], None],
    ) -> Resource:
        def body(connection: Connection) -> Resource:
            record = _alive(connection, session_id)
            check(record.resources)
            copy_to_session(
                connection,
                new.copies,
                session_id=session_id,
                workspace_id=record.workspace_id,
                now=self._clock.now(),
            )
            self._replace(connection, record, [*record.resources, new.resource])
            return new.resource

        return await self._database.write(body, checks_first=True)

    async def update(
        self,
        session_id: SessionId,
        resource_id: ResourceId,
        change: Callable[[Resource], Resource],
        *,
        token: SealedToken | None = None,
    ) -> Resource:
        def body(connection: Connection) -> Resource:
            record = _alive(connection, session_id)
            current = _found(record, resource_id)
            changed = change(current)
            if token is not None:
                replace_token(connection, session_id, token)
            self._replace(
                connection, record, [changed if each is current else each for each in record.resources]
            )
            return changed

        return await self._database.write(body, checks_first=True)

    async def remove(
        self,
        session_id: SessionId,
        resource_id: ResourceId,
        check: Callable[[Resource], None],
    ) -> None:
        def body(connection: Connection) -> None:
            record = _alive(connection, session_id)
            current = _found(record, resource_id)
            check(current)
            if current.type == "file":
                delete_of_session(connection, session_id, FileId(current.body["file_id"]))
            self._replace(connection, record, [each for each in record.resources if each is not current])

        await self._database.write(body, checks_first=True)

    def _replace(
        self, connection: Connection, record: SessionRecord, resources: Sequence[Resource]
    ) -> None:
        of_session = {"of_session_id": record.session_id}
        connection.execute(_REPLACE.values(resources=stored_resources(resources)), of_session)
        now = max(self._clock.now(), record.updated_at)
        connection.execute(_TOUCH.values(updated_at=now), of_session)


def _alive(connection: Connection, session_id: SessionId) -> SessionRecord:
    """Its row locked. Raises NotFound, Conflict."""
    record = lock_record(connection, session_id)
    if record.archived_at is not None or record.status == "terminated":
        raise Conflict(f"Session {session_id} has ended; its resources cannot be changed.")
    return record


def _found(record: SessionRecord, resource_id: ResourceId) -> Resource:
    for resource in record.resources:
        if resource.resource_id == resource_id:
            return resource
    raise NotFound(f"Resource {resource_id!r} of session {record.session_id!r} was not found.")
