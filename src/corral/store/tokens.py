"""Who refreshes a credential's tokens, and the new ones; see `catalog.tokens`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from corral.catalog.records import Wire
from corral.catalog.tokens import ClaimOutcome, KeepOutcome, Where, refreshed
from corral.catalog.vaults import SealedCredential, SealedSecret
from corral.kernel.errors import NotFound
from corral.store.database import Database
from corral.store.schema import credential_refreshes, credential_secrets, credentials, from_us
from corral.store.vaults import locked_credential, store_secrets

__all__ = ["Tokens"]


class Tokens:
    """`catalog.tokens.TokenStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, where: Where, *, updated_at: str, claim_id: str, seconds: float
    ) -> tuple[ClaimOutcome, SealedCredential | None]:
        def body(connection: Connection) -> tuple[ClaimOutcome, SealedCredential | None]:
            current = _current(connection, where)
            if current is None:
                return "gone", None
            if current["updated_at"] != updated_at:
                return "changed", _sealed(connection, where, current)
            now_us = self._database.now_us(connection)
            of_credential = credential_refreshes.c.credential_id == where.credential_id
            held = connection.execute(select(credential_refreshes).where(of_credential)).first()
            if held is not None and held.claim_id != claim_id and from_us(now_us) < held.until:
                return "busy", None
            connection.execute(delete(credential_refreshes).where(of_credential))
            connection.execute(
                insert(credential_refreshes),
                {
                    "credential_id": where.credential_id,
                    "claim_id": claim_id,
                    "until": from_us(now_us + int(seconds * 1_000_000)),
                },
            )
            return "claimed", None

        return await self._database.write(body)

    async def keep(
        self,
        where: Where,
        secrets: Sequence[SealedSecret],
        *,
        updated_at: str,
        claim_id: str,
        expires_at: str | None,
        now: datetime,
    ) -> tuple[KeepOutcome, SealedCredential | None]:
        def body(connection: Connection) -> tuple[KeepOutcome, SealedCredential | None]:
            current = _current(connection, where)
            if current is None:
                return "gone", None
            if current["updated_at"] != updated_at:
                return "changed", _sealed(connection, where, current)
            changed = refreshed(current, expires_at=expires_at, now=now)
            connection.execute(
                update(credentials)
                .where(credentials.c.credential_id == where.credential_id)
                .values(body=changed)
            )
            store_secrets(connection, where.credential_id, secrets)
            _release(connection, where, claim_id)
            return "kept", _sealed(connection, where, changed)

        return await self._database.write(body, checks_first=True)

    async def release(self, where: Where, *, claim_id: str) -> None:
        await self._database.write(lambda connection: _release(connection, where, claim_id))

    async def sealed(self, where: Where) -> SealedCredential:
        def body(connection: Connection) -> SealedCredential:
            return _sealed(connection, where, _locked(connection, where))

        return await self._database.write(body, checks_first=True)


def _locked(connection: Connection, where: Where) -> Wire:
    """Raises NotFound."""
    return locked_credential(connection, where.vault_id, where.credential_id, where.workspace_id)


def _current(connection: Connection, where: Where) -> Wire | None:
    """None if it may not be used any more."""
    try:
        current = _locked(connection, where)
    except NotFound:
        return None
    return None if current["archived_at"] is not None else current


def _sealed(connection: Connection, where: Where, record: Wire) -> SealedCredential:
    rows = connection.execute(
        select(credential_secrets).where(credential_secrets.c.credential_id == where.credential_id)
    )
    return SealedCredential(
        workspace_id=where.workspace_id,
        record=record,
        secrets=[SealedSecret(name=row.name, key_id=row.key_id, sealed=bytes(row.sealed)) for row in rows],
    )


def _release(connection: Connection, where: Where, claim_id: str) -> None:
    connection.execute(
        delete(credential_refreshes).where(
            credential_refreshes.c.credential_id == where.credential_id,
            credential_refreshes.c.claim_id == claim_id,
        )
    )
