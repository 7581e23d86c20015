"""API keys on the database: only their SHA-256 is kept."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from corral.catalog.records import ApiKey
from corral.kernel.errors import Conflict, NotFound
from corral.store.database import Database
from corral.store.rows import AnyRow
from corral.store.schema import api_keys

__all__ = ["ApiKeys"]

_FIND = select(api_keys).where(api_keys.c.sha256 == bindparam("of_sha256"))


class ApiKeys:
    """`catalog.records.ApiKeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> None:
        def body(connection: Connection) -> None:
            if connection.execute(_FIND, {"of_sha256": key.sha256}).first() is not None:
                return
            row = {
                "api_key_id": key.api_key_id,
                "name": key.name,
                "sha256": key.sha256,
                "hint": key.hint,
                "created_at": key.created_at,
                "revoked_at": key.revoked_at,
            }
            # Another node may add the same preset key at this moment.
            with suppress(IntegrityError), connection.begin_nested():
                connection.execute(insert(api_keys), row)

        await self._database.write(body)

    async def find(self, sha256: bytes) -> ApiKey | None:
        def body(connection: Connection) -> ApiKey | None:
            statement = _FIND.where(api_keys.c.revoked_at.is_(None))
            row = connection.execute(statement, {"of_sha256": sha256}).first()
            return None if row is None else _api_key(row)

        return await self._database.read(body)

    async def all(self) -> Sequence[ApiKey]:
        """Oldest first, revoked ones too."""
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.api_key_id)
        return await self._database.read(
            lambda connection: [_api_key(row) for row in connection.execute(statement)]
        )

    async def revoke(self, api_key_id: str, *, now: datetime) -> None:
        def body(connection: Connection) -> None:
            # All rows are locked: two last keys must not revoke each other.
            rows = connection.execute(
                select(api_keys).order_by(api_keys.c.api_key_id).with_for_update()
            ).all()
            found = next((row for row in rows if row.api_key_id == api_key_id), None)
            if found is None:
                raise NotFound(f"API key {api_key_id!r} was not found.")
            if found.revoked_at is not None:
                return
            if sum(row.revoked_at is None for row in rows) == 1:
                raise Conflict(
                    f"API key {api_key_id} is the last valid one; without it nobody could come in."
                    " Create another first."
                )
            connection.execute(
                update(api_keys).where(api_keys.c.api_key_id == api_key_id).values(revoked_at=now)
            )

        await self._database.write(body, checks_first=True)


def _api_key(row: AnyRow) -> ApiKey:
    return ApiKey(
        api_key_id=row.api_key_id,
        name=row.name,
        sha256=bytes(row.sha256),
        hint=row.hint,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
