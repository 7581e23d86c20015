"""Validations of credentials that one node asks for and another one makes; see `catalog.tokens`."""

from datetime import timedelta

from sqlalchemy import Connection, delete, insert, select, update

from corral.catalog.records import Wire
from corral.catalog.tokens import Where
from corral.kernel.ids import CredentialId, VaultId, WorkspaceId
from corral.kernel.limits import VALIDATION_SECONDS
from corral.store.database import Database
from corral.store.schema import credential_validations, credentials, from_us
from corral.store.vaults import locked_credential

__all__ = ["Validations"]

_FORGOTTEN_AFTER = timedelta(seconds=2 * VALIDATION_SECONDS)  # whoever asked has given up, or was killed


class Validations:
    """`catalog.tokens.ValidationQueue`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, validation_id: str, where: Where) -> None:
        def body(connection: Connection) -> None:
            locked_credential(connection, where.vault_id, where.credential_id, where.workspace_id)
            now = from_us(self._database.now_us(connection))
            connection.execute(
                insert(credential_validations),
                {
                    "validation_id": validation_id,
                    "credential_id": where.credential_id,
                    "asked_at": now,
                    "taken_until": now,
                    "answer": None,
                },
            )

        await self._database.write(body, checks_first=True)

    async def take(self, *, seconds: float) -> tuple[str, Where] | None:
        if not await self._database.look(_is_any):
            return None

        def body(connection: Connection) -> tuple[str, Where] | None:
            now = from_us(self._database.now_us(connection))
            connection.execute(
                delete(credential_validations).where(
                    credential_validations.c.asked_at < now - _FORGOTTEN_AFTER
                )
            )
            found = connection.execute(
                select(
                    credential_validations.c.validation_id,
                    credentials.c.credential_id,
                    credentials.c.vault_id,
                    credentials.c.workspace_id,
                )
                .join_from(
                    credential_validations,
                    credentials,
                    credentials.c.credential_id == credential_validations.c.credential_id,
                )
                .where(
                    credential_validations.c.answer.is_(None),
                    credential_validations.c.taken_until <= now,
                )
                .order_by(credential_validations.c.asked_at, credential_validations.c.validation_id)
                .limit(1)
                .with_for_update(skip_locked=True, of=credential_validations)
            ).first()
            if found is None:
                return None
            connection.execute(
                update(credential_validations)
                .where(credential_validations.c.validation_id == found.validation_id)
                .values(taken_until=now + timedelta(seconds=seconds))
            )
            where = Where(
                workspace_id=WorkspaceId(found.workspace_id),
                vault_id=VaultId(found.vault_id),
                credential_id=CredentialId(found.credential_id),
            )
            return str(found.validation_id), where

        return await self._database.write(body)

    async def tell(self, validation_id: str, answer: Wire) -> None:
        await self._database.write(
            lambda connection: connection.execute(
                update(credential_validations)
                .where(credential_validations.c.validation_id == validation_id)
                .values(answer=answer)
            )
        )

    async def answer(self, validation_id: str) -> Wire | None:
        def body(connection: Connection) -> Wire | None:
            found = connection.scalar(
                select(credential_validations.c.answer).where(
                    credential_validations.c.validation_id == validation_id
                )
            )
            return None if found is None else dict(found)

        return await self._database.read(body)

    async def forget(self, validation_id: str) -> None:
        await self._database.write(
            lambda connection: connection.execute(
                delete(credential_validations).where(
                    credential_validations.c.validation_id == validation_id
                )
            )
        )


def _is_any(connection: Connection) -> bool:
    return connection.execute(select(credential_validations.c.validation_id).limit(1)).first() is not None
