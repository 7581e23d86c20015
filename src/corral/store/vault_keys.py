"""The keys that seal: their public parts, and the secrets that are to be sealed anew."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from corral.catalog.credentials import place_of
from corral.catalog.repositories import TokenPlace
from corral.catalog.vaults import KeyUse, SealedSecret, StoredSecret, VaultKey
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import WorkspaceId
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.repository_tokens import seal_token_anew, tokens_sealed_with
from corral.store.schema import credential_secrets, credentials, repository_tokens, vault_keys
from corral.store.vaults import key_is_gone

__all__ = ["VaultKeys"]

_CURRENT = select(vault_keys).where(vault_keys.c.state == literal_column("'current'"))
_READ_CURRENT = Query(_CURRENT)
_SEALING = (credential_secrets, repository_tokens)
_USES = union_all(
    *(select(each.c.key_id, func.count().label("secrets")).group_by(each.c.key_id) for each in _SEALING)
)
_IS_USED = or_(*(exists().where(each.c.key_id == vault_keys.c.key_id) for each in _SEALING))
_UNUSED = select(vault_keys.c.key_id).where(vault_keys.c.state == "old", ~_IS_USED)
_STORED = (
    select(
        credential_secrets.c.credential_id,
        credential_secrets.c.name,
        credential_secrets.c.key_id,
        credential_secrets.c.sealed,
        credentials.c.workspace_id,
        credentials.c.body,
    )
    .join_from(
        credential_secrets,
        credentials,
        credentials.c.credential_id == credential_secrets.c.credential_id,
    )
    .where(credential_secrets.c.key_id.in_(bindparam("of_key_ids", expanding=True)))
    .order_by(credential_secrets.c.credential_id, credential_secrets.c.name)
)


class VaultKeys:
    """`catalog.vaults.VaultKeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def current(self) -> VaultKey | None:
        def body(connection: Connection) -> VaultKey | None:
            row = _READ_CURRENT.first(connection, {})
            return None if row is None else VaultKey(key_id=row.key_id, public_key=bytes(row.public_key))

        return await self._database.look(body)

    async def all(self) -> Sequence[KeyUse]:
        def body(connection: Connection) -> list[KeyUse]:
            rows = connection.execute(select(vault_keys).order_by(vault_keys.c.created_at.desc())).all()
            uses: Counter[str] = Counter()
            for row in connection.execute(_USES):
                uses[row.key_id] += row.secrets
            found = [
                KeyUse(
                    key=VaultKey(key_id=row.key_id, public_key=bytes(row.public_key)),
                    is_current=row.state == "current",
                    created_at=row.created_at,
                    rotation_asked_at=row.rotation_asked_at,
                    secrets=uses[row.key_id],
                )
                for row in rows
            ]
            return sorted(found, key=lambda use: not use.is_current)

        return await self._database.read(body)

    async def add_first(self, key: VaultKey, *, now: datetime) -> None:
        def body(connection: Connection) -> None:
            if connection.execute(_CURRENT).first() is None:
                # Another node may add its own at this moment; the index lets one of them.
                with suppress(IntegrityError), connection.begin_nested():
                    _insert(connection, key, now)

        await self._database.write(body)

    async def ask_rotation(self, *, now: datetime) -> None:
        def body(connection: Connection) -> None:
            current = connection.execute(_CURRENT.with_for_update()).first()
            if current is None:
                raise VaultUnavailable(
                    "There is no vault key yet: start a node with the role egress, which makes one."
                )
            if current.rotation_asked_at is None:
                connection.execute(
                    update(vault_keys)
                    .where(vault_keys.c.key_id == current.key_id)
                    .values(rotation_asked_at=now)
                )

        await self._database.write(body)

    async def replace(self, old_key_id: str, new: VaultKey, *, now: datetime) -> bool:
        def body(connection: Connection) -> bool:
            retired = connection.execute(
                update(vault_keys)
                .where(
                    vault_keys.c.key_id == old_key_id,
                    vault_keys.c.state == "current",
                    vault_keys.c.rotation_asked_at.is_not(None),
                )
                .values(state="old", rotation_asked_at=None)
            )
            if retired.rowcount:
                _insert(connection, new, now)
            return bool(retired.rowcount)

        return await self._database.write(body)

    async def sealed_otherwise(
        self, key_ids: Sequence[str], *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[StoredSecret]:
        statement = _STORED.limit(limit)
        if after is not None:
            id_, name = credential_secrets.c.credential_id, credential_secrets.c.name
            statement = statement.where(or_(id_ > after[0], and_(id_ == after[0], name > after[1])))

        def body(connection: Connection) -> list[StoredSecret]:
            rows = connection.execute(statement, {"of_key_ids": list(key_ids)})
            of_repositories = tokens_sealed_with(
                connection, key_ids, after=None if after is None else after[0], limit=limit
            )
            of_credentials = [
                StoredSecret(
                    place=place_of(row.body, row.name, workspace_id=WorkspaceId(row.workspace_id)),
                    key_id=row.key_id,
                    sealed=bytes(row.sealed),
                )
                for row in rows
            ]
            found = [*of_credentials, *of_repositories]
            return sorted(found, key=lambda each: (each.place.credential_id, each.place.name))[:limit]

        return await self._database.read(body)

    async def seal_anew(self, old: Sequence[StoredSecret], new: Sequence[SealedSecret]) -> int:
        def body(connection: Connection) -> int:
            changed = 0
            for before, after in zip(old, new, strict=True):
                if isinstance(before.place, TokenPlace):
                    changed += seal_token_anew(connection, before, after)
                    continue
                done = connection.execute(
                    update(credential_secrets)
                    .where(
                        credential_secrets.c.credential_id == before.place.credential_id,
                        credential_secrets.c.name == before.place.name,
                        credential_secrets.c.sealed == before.sealed,
                    )
                    .values(key_id=after.key_id, sealed=after.sealed)
                )
                changed += done.rowcount
            return changed

        try:
            return await self._database.write(body)
        except IntegrityError as error:
            raise key_is_gone() from error

    async def forget_unused(self) -> Sequence[str]:
        def body(connection: Connection) -> list[str]:
            forgotten = []
            for key_id in connection.scalars(_UNUSED).all():
                # A credential that was sealed a moment ago may be stored right now; the foreign key knows.
                with suppress(IntegrityError), connection.begin_nested():
                    connection.execute(delete(vault_keys).where(vault_keys.c.key_id == key_id))
                    forgotten.append(str(key_id))
            return forgotten

        return await self._database.write(body)


def _insert(connection: Connection, key: VaultKey, now: datetime) -> None:
    connection.execute(
        insert(vault_keys),
        {
            "key_id": key.key_id,
            "public_key": key.public_key,
            "state": "current",
            "created_at": now,
            "rotation_asked_at": None,
        },
    )
