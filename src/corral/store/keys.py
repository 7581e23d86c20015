"""API keys on the database: only their SHA-256 is kept."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from corral.catalog.records import ApiKey
from corral.catalog.roles import is_operator
from corral.kernel.errors import Conflict, NotFound
from corral.kernel.ids import DEFAULT_WORKSPACE, WorkspaceId
from corral.store.database import Database
from corral.store.rows import AnyRow
from corral.store.schema import api_keys, workspaces

__all__ = ["ApiKeys"]

_FIND = select(api_keys).where(api_keys.c.sha256 == bindparam("of_sha256"))
_FIND_VALID = (
    _FIND.outerjoin(workspaces, workspaces.c.workspace_id == api_keys.c.workspace_id)
    .where(api_keys.c.revoked_at.is_(None))
    .where(workspaces.c.archived_at.is_(None))
)
_WORKSPACE = (
    select(workspaces.c.archived_at)
    .where(workspaces.c.workspace_id == bindparam("of_workspace_id"))
    .with_for_update()
)
_USED = (
    update(api_keys)
    .where(
        api_keys.c.api_key_id == bindparam("of_api_key_id"),
        or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < bindparam("at")),
    )
    .values(last_used_at=bindparam("at"))
)


class ApiKeys:
    """`catalog.records.ApiKeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> None:
        def body(connection: Connection) -> None:
            if connection.execute(_FIND, {"of_sha256": key.sha256}).first() is not None:
                return
            if key.workspace_id != DEFAULT_WORKSPACE:
                found = connection.execute(_WORKSPACE, {"of_workspace_id": key.workspace_id}).first()
                if found is None:
                    raise NotFound(f"Workspace {key.workspace_id!r} was not found.")
                if found.archived_at is not None:
                    raise Conflict(f"Workspace {key.workspace_id} is archived; it takes no more keys.")
            row = {
                "api_key_id": key.api_key_id,
                "name": key.name,
                "sha256": key.sha256,
                "hint": key.hint,
                "created_at": key.created_at,
                "revoked_at": key.revoked_at,
                "workspace_id": key.workspace_id,
                "role": key.role,
                "last_used_at": key.last_used_at,
            }
            # Another node may add the same preset key at this moment.
            with suppress(IntegrityError), connection.begin_nested():
                connection.execute(insert(api_keys), row)

        await self._database.write(body, checks_first=True)

    async def find(self, sha256: bytes) -> ApiKey | None:
        def body(connection: Connection) -> ApiKey | None:
            row = connection.execute(_FIND_VALID, {"of_sha256": sha256}).first()
            return None if row is None else _api_key(row)

        return await self._database.read(body)

    async def all(self, *, workspace_id: WorkspaceId | None) -> Sequence[ApiKey]:
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.api_key_id)
        if workspace_id is not None:
            statement = statement.where(api_keys.c.workspace_id == workspace_id)
        return await self._database.read(
            lambda connection: [_api_key(row) for row in connection.execute(statement)]
        )

    async def revoke(self, api_key_id: str, *, workspace_id: WorkspaceId | None, now: datetime) -> None:
        def body(connection: Connection) -> None:
            # All rows are locked: two last keys must not revoke each other.
            rows = connection.execute(
                select(api_keys).order_by(api_keys.c.api_key_id).with_for_update()
            ).all()
            found = next((row for row in rows if row.api_key_id == api_key_id), None)
            if found is None or workspace_id not in (None, found.workspace_id):
                raise NotFound(f"API key {api_key_id!r} was not found.")
            if found.revoked_at is not None:
                return
            others = (row for row in rows if row.api_key_id != api_key_id)
            if _manages(found) and not any(_manages(row) for row in others):
                raise Conflict(
                    f"API key {api_key_id} is the last valid one that may manage this server; without it"
                    " nobody could make another. Create another admin key of the default workspace first."
                )
            connection.execute(
                update(api_keys).where(api_keys.c.api_key_id == api_key_id).values(revoked_at=now)
            )

        await self._database.write(body, checks_first=True)

    async def used(self, at: Mapping[str, datetime]) -> None:
        # In the order of their ids: another node may note the same ones.
        rows = [{"of_api_key_id": api_key_id, "at": moment} for api_key_id, moment in sorted(at.items())]

        def body(connection: Connection) -> None:
            connection.execute(_USED, rows)

        if rows:
            await self._database.write(body)


def _manages(row: AnyRow) -> bool:
    return row.revoked_at is None and is_operator(row.role, home=WorkspaceId(row.workspace_id))


def _api_key(row: AnyRow) -> ApiKey:
    return ApiKey(
        api_key_id=row.api_key_id,
        name=row.name,
        sha256=bytes(row.sha256),
        hint=row.hint,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        workspace_id=WorkspaceId(row.workspace_id),
        role=row.role,
        last_used_at=row.last_used_at,
    )
