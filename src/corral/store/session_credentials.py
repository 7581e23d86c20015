"""What a session's vaults hold now, and the tokens of its repositories, for the egress process of whichever
node it is at work on."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from corral.catalog.records import Wire
from corral.catalog.repositories import SealedToken
from corral.catalog.vaults import SealedCredential, SealedSecret
from corral.kernel.ids import SessionId, VaultId, WorkspaceId
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.newest_first import with_archival
from corral.store.repository_tokens import tokens_of
from corral.store.schema import credential_secrets, credentials, session_details, sessions, vaults

__all__ = ["SessionCredentials"]

_VAULT_IDS = Query(
    select(sessions.c.workspace_id, session_details.c.vault_ids)
    .join_from(sessions, session_details, session_details.c.session_id == sessions.c.session_id)
    .where(sessions.c.session_id == bindparam("of_session_id"))
)
_ACTIVE = (
    select(
        credentials.c.credential_id,
        credentials.c.vault_id,
        credentials.c.created_at,
        credentials.c.archived_at,
        credentials.c.body,
    )
    .join_from(credentials, vaults, vaults.c.vault_id == credentials.c.vault_id)
    .where(
        vaults.c.workspace_id == bindparam("of_workspace_id"),
        vaults.c.archived_at.is_(None),
        credentials.c.archived_at.is_(None),
        credentials.c.vault_id.in_(bindparam("of_vault_ids", expanding=True)),
    )
    .order_by(credentials.c.created_at, credentials.c.credential_id)
)
_SECRETS = select(credential_secrets).where(
    credential_secrets.c.credential_id.in_(bindparam("of_credential_ids", expanding=True))
)


class SessionCredentials:
    """`catalog.vaults.SessionCredentialStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_session(self, session_id: SessionId) -> Sequence[SealedCredential]:
        def body(connection: Connection) -> list[SealedCredential]:
            workspace_id, found = _active(connection, session_id)
            secrets: defaultdict[str, list[SealedSecret]] = defaultdict(list)
            ids = [record["id"] for record in found]
            for row in connection.execute(_SECRETS, {"of_credential_ids": ids}) if ids else ():
                secrets[row.credential_id].append(
                    SealedSecret(name=row.name, key_id=row.key_id, sealed=bytes(row.sealed))
                )
            return [
                SealedCredential(workspace_id=workspace_id, record=record, secrets=secrets[record["id"]])
                for record in found
            ]

        return await self._database.read(body)

    async def tokens_of_session(self, session_id: SessionId) -> Sequence[SealedToken]:
        return await self._database.read(lambda connection: tokens_of(connection, session_id))

    async def records(self, session_id: SessionId) -> Sequence[Wire]:
        """The same without anything sealed."""
        return await self._database.read(lambda connection: _active(connection, session_id)[1])


def _active(connection: Connection, session_id: SessionId) -> tuple[WorkspaceId, list[Wire]]:
    row = _VAULT_IDS.first(connection, {"of_session_id": session_id})
    vault_ids = [VaultId(vault_id) for vault_id in row.vault_ids or ()] if row else []
    if row is None or not vault_ids:
        return WorkspaceId(""), []
    values = {"of_workspace_id": row.workspace_id, "of_vault_ids": vault_ids}
    rows = connection.execute(_ACTIVE, values).all()
    order = {vault_id: number for number, vault_id in reversed(list(enumerate(vault_ids)))}
    rows = sorted(rows, key=lambda each: order[each.vault_id])  # stable: by age within a vault
    return WorkspaceId(row.workspace_id), [with_archival(each) for each in rows]
