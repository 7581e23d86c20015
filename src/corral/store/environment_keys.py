"""Environment keys on the database: only their SHA-256 is kept."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, insert, select, update

from corral.catalog.environment_keys import EnvironmentKey
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import EnvironmentId, EnvironmentKeyId, WorkspaceId
from corral.kernel.limits import ENVIRONMENT_KEYS_MAX
from corral.store.database import Database
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import environment_keys, environments

__all__ = ["EnvironmentKeys"]

_KEYS: AnySelect = select(environment_keys)
_FIND = _KEYS.where(
    environment_keys.c.sha256 == bindparam("of_sha256"), environment_keys.c.revoked_at.is_(None)
)
_OF_ENVIRONMENT = _KEYS.where(environment_keys.c.environment_id == bindparam("of_environment_id"))
_ENVIRONMENT = select(environments.c.body).where(
    environments.c.environment_id == bindparam("of_environment_id"),
    environments.c.workspace_id == bindparam("of_workspace_id"),
)


class EnvironmentKeys:
    """`catalog.environment_keys.EnvironmentKeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: EnvironmentKey) -> None:
        def body(connection: Connection) -> None:
            environment = _environment(connection, key.environment_id, key.workspace_id, locks=True)
            if environment["config"]["type"] != "self_hosted":
                raise InvalidRequest(
                    f"Environment {key.environment_id} is {environment['config']['type']}: only self-hosted"
                    " environments have workers, and keys for them"
                )
            valid = select(func.count()).where(
                environment_keys.c.environment_id == key.environment_id,
                environment_keys.c.revoked_at.is_(None),
            )
            if (connection.scalar(valid) or 0) >= ENVIRONMENT_KEYS_MAX:
                raise InvalidRequest(
                    f"Environment {key.environment_id} has {ENVIRONMENT_KEYS_MAX} valid keys, the most that"
                    " one may have. Revoke one first."
                )
            connection.execute(insert(environment_keys), asdict(key))

        await self._database.write(body, checks_first=True)

    async def find(self, sha256: bytes) -> EnvironmentKey | None:
        def body(connection: Connection) -> EnvironmentKey | None:
            row = connection.execute(_FIND, {"of_sha256": sha256}).first()
            return None if row is None else _key(row)

        return await self._database.read(body)

    async def of_environment(
        self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId
    ) -> Sequence[EnvironmentKey]:
        oldest_first = _OF_ENVIRONMENT.order_by(
            environment_keys.c.created_at, environment_keys.c.environment_key_id
        )

        def body(connection: Connection) -> list[EnvironmentKey]:
            _environment(connection, environment_id, workspace_id)
            rows = connection.execute(oldest_first, {"of_environment_id": environment_id})
            return [_key(row) for row in rows]

        return await self._database.read(body)

    async def revoke(
        self,
        environment_id: EnvironmentId,
        environment_key_id: EnvironmentKeyId,
        *,
        workspace_id: WorkspaceId,
        now: datetime,
    ) -> None:
        def body(connection: Connection) -> None:
            _environment(connection, environment_id, workspace_id)
            of_key = environment_keys.c.environment_key_id == environment_key_id
            found = connection.execute(
                _OF_ENVIRONMENT.where(of_key).with_for_update(), {"of_environment_id": environment_id}
            ).first()
            if found is None:
                raise NotFound(f"Environment key {environment_key_id!r} was not found.")
            if found.revoked_at is None:
                connection.execute(update(environment_keys).where(of_key).values(revoked_at=now))

        await self._database.write(body, checks_first=True)


def _environment(
    connection: Connection,
    environment_id: EnvironmentId,
    workspace_id: WorkspaceId,
    *,
    locks: bool = False,
) -> dict[str, dict[str, str]]:
    statement = _ENVIRONMENT.with_for_update() if locks else _ENVIRONMENT
    body: dict[str, dict[str, str]] | None = connection.scalar(
        statement, {"of_environment_id": environment_id, "of_workspace_id": workspace_id}
    )
    if body is None:
        raise NotFound(f"Environment {environment_id!r} was not found.")
    return body


def _key(row: AnyRow) -> EnvironmentKey:
    values = {each.name: getattr(row, each.name) for each in fields(EnvironmentKey)}
    return EnvironmentKey(**{**values, "sha256": bytes(row.sha256)})
