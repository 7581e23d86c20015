"""Vaults and credentials on the database. Secrets come sealed and are written, never read for the API.

Whatever changes a vault or a credential first locks the vault's row, so counts and uniqueness hold by that
lock; the unique index holds them once more.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from corral.catalog.credentials import use_of
from corral.catalog.records import Wire
from corral.catalog.vaults import SealedSecret, check_active
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.kernel.cursor import Page
from corral.kernel.errors import Conflict, InvalidRequest, NotFound, VaultUnavailable
from corral.kernel.ids import CredentialId, VaultId, WorkspaceId
from corral.kernel.limits import CREDENTIALS_PER_VAULT_MAX
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.newest_first import NewestFirst, with_archival
from corral.store.rows import AnySelect
from corral.store.schema import credential_secrets, credentials, vaults

__all__ = ["Credentials", "Vaults", "key_is_gone", "locked_credential", "store_secrets"]

_VAULT: AnySelect = select(
    vaults.c.vault_id, vaults.c.created_at, vaults.c.archived_at, vaults.c.body
).where(vaults.c.workspace_id == bindparam("of_workspace_id"))
_THE_VAULT = _VAULT.where(vaults.c.vault_id == bindparam("of_vault_id"))
_READ_VAULT = Query(_THE_VAULT)
_VAULT_LOCKED = _THE_VAULT.with_for_update()

_CREDENTIAL: AnySelect = select(
    credentials.c.credential_id, credentials.c.created_at, credentials.c.archived_at, credentials.c.body
).where(
    credentials.c.workspace_id == bindparam("of_workspace_id"),
    credentials.c.vault_id == bindparam("of_vault_id"),
)
_THE_CREDENTIAL = _CREDENTIAL.where(credentials.c.credential_id == bindparam("of_credential_id"))
_READ_CREDENTIAL = Query(_THE_CREDENTIAL)
_ACTIVE = _CREDENTIAL.where(credentials.c.archived_at.is_(None)).order_by(
    credentials.c.created_at, credentials.c.credential_id
)
_ACTIVE_COUNT = select(func.count()).where(
    credentials.c.vault_id == bindparam("of_vault_id"), credentials.c.archived_at.is_(None)
)
_RIVAL = select(credentials.c.credential_id).where(
    credentials.c.vault_id == bindparam("of_vault_id"),
    credentials.c.use_sha256 == bindparam("of_use"),
    credentials.c.archived_at.is_(None),
)
_SECRETS_OF_VAULT = select(credentials.c.credential_id).where(
    credentials.c.vault_id == bindparam("of_vault_id")
)

_VAULTS = NewestFirst(kind="vaults", id_=vaults.c.vault_id)


class Vaults:
    """`catalog.vaults.VaultStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, vault: Wire, *, workspace_id: WorkspaceId) -> None:
        def body(connection: Connection) -> None:
            connection.execute(
                insert(vaults),
                {
                    "vault_id": vault["id"],
                    "workspace_id": workspace_id,
                    "body": vault,
                    "created_at": parse_rfc3339(vault["created_at"]),
                    "archived_at": None,
                },
            )

        await self._database.write(body)

    async def read(self, vault_id: VaultId, *, workspace_id: WorkspaceId) -> Wire:
        def body(connection: Connection) -> Wire:
            row = _READ_VAULT.first(connection, _of(vault_id, workspace_id))
            if row is None:
                raise _no_vault(vault_id)
            return with_archival(row)

        return await self._database.look(body)

    async def update(
        self, vault_id: VaultId, change: Callable[[Wire], Wire], *, workspace_id: WorkspaceId
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            current = _locked_vault(connection, vault_id, workspace_id)
            changed = change(current)
            if changed != current:
                connection.execute(update(vaults).where(vaults.c.vault_id == vault_id).values(body=changed))
            return changed

        return await self._database.write(body, checks_first=True)

    async def archive(self, vault_id: VaultId, *, workspace_id: WorkspaceId, now: datetime) -> Wire:
        def body(connection: Connection) -> Wire:
            current = _locked_vault(connection, vault_id, workspace_id)
            if current["archived_at"] is not None:
                return current
            of_vault = {"of_vault_id": vault_id}
            connection.execute(update(vaults).where(vaults.c.vault_id == vault_id).values(archived_at=now))
            connection.execute(
                delete(credential_secrets).where(credential_secrets.c.credential_id.in_(_SECRETS_OF_VAULT)),
                of_vault,
            )
            connection.execute(
                update(credentials)
                .where(credentials.c.vault_id == vault_id, credentials.c.archived_at.is_(None))
                .values(archived_at=now)
            )
            return {**current, "archived_at": rfc3339(now)}

        return await self._database.write(body, checks_first=True)

    async def delete(self, vault_id: VaultId, *, workspace_id: WorkspaceId) -> None:
        def body(connection: Connection) -> None:
            _locked_vault(connection, vault_id, workspace_id)
            connection.execute(delete(vaults).where(vaults.c.vault_id == vault_id))  # the rest goes along

        await self._database.write(body, checks_first=True)

    async def page(
        self, *, workspace_id: WorkspaceId, limit: int, cursor: str | None, include_archived: bool
    ) -> Page[Wire]:
        statement = _VAULTS.behind(_VAULT, cursor)
        if not include_archived:
            statement = statement.where(vaults.c.archived_at.is_(None))
        of_workspace = {"of_workspace_id": workspace_id}
        return await self._database.read(
            lambda connection: _VAULTS.page(
                connection, statement, of_workspace, limit=limit, item=with_archival
            )
        )

    async def contents(
        self, vault_ids: Sequence[VaultId], *, workspace_id: WorkspaceId
    ) -> Sequence[tuple[Wire, Sequence[Wire]]]:
        def body(connection: Connection) -> list[tuple[Wire, Sequence[Wire]]]:
            found: list[tuple[Wire, Sequence[Wire]]] = []
            for vault_id in vault_ids:
                of_vault = _of(vault_id, workspace_id)
                row = connection.execute(_THE_VAULT, of_vault).first()
                if row is None:
                    raise _no_vault(vault_id)
                found.append(
                    (
                        with_archival(row),
                        [with_archival(each) for each in connection.execute(_ACTIVE, of_vault)],
                    )
                )
            return found

        return await self._database.read(body)


class Credentials:
    """`catalog.vaults.CredentialStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, credential: Wire, secrets: Sequence[SealedSecret], *, workspace_id: WorkspaceId
    ) -> None:
        vault_id, use = credential["vault_id"], use_of(credential["auth"])

        def body(connection: Connection) -> None:
            check_active(_locked_vault(connection, vault_id, workspace_id))
            rival = connection.scalar(_RIVAL, {"of_vault_id": vault_id, "of_use": use})
            if rival is not None:
                raise _taken(credential, str(rival))
            count = connection.scalar(_ACTIVE_COUNT, {"of_vault_id": vault_id}) or 0
            if count >= CREDENTIALS_PER_VAULT_MAX:
                raise InvalidRequest(
                    f"Vault {vault_id} has {count} credentials; at most {CREDENTIALS_PER_VAULT_MAX} may be"
                    " active. Archive or delete one, or use another vault."
                )
            try:
                connection.execute(
                    insert(credentials),
                    {
                        "credential_id": credential["id"],
                        "vault_id": vault_id,
                        "workspace_id": workspace_id,
                        "use_sha256": use,
                        "body": credential,
                        "created_at": parse_rfc3339(credential["created_at"]),
                        "archived_at": None,
                    },
                )
            except IntegrityError as error:
                raise _taken(credential, "another one") from error
            store_secrets(connection, credential["id"], secrets)

        await self._database.write(body)

    async def read(
        self, vault_id: VaultId, credential_id: CredentialId, *, workspace_id: WorkspaceId
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            values = {**_of(vault_id, workspace_id), "of_credential_id": credential_id}
            row = _READ_CREDENTIAL.first(connection, values)
            if row is None:
                raise _no_credential(vault_id, credential_id)
            return with_archival(row)

        return await self._database.look(body)

    async def update(
        self,
        vault_id: VaultId,
        credential_id: CredentialId,
        change: Callable[[Wire], Wire],
        secrets: Sequence[SealedSecret],
        *,
        workspace_id: WorkspaceId,
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            current = locked_credential(connection, vault_id, credential_id, workspace_id)
            changed = change(current)
            assert use_of(changed["auth"]) == use_of(current["auth"]), "what it is for does not change"
            if changed != current:
                connection.execute(
                    update(credentials)
                    .where(credentials.c.credential_id == credential_id)
                    .values(body=changed)
                )
            store_secrets(connection, credential_id, secrets)
            return changed

        return await self._database.write(body, checks_first=True)

    async def archive(
        self, vault_id: VaultId, credential_id: CredentialId, *, workspace_id: WorkspaceId, now: datetime
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            current = locked_credential(connection, vault_id, credential_id, workspace_id)
            if current["archived_at"] is not None:
                return current
            of_credential = credentials.c.credential_id == credential_id
            connection.execute(update(credentials).where(of_credential).values(archived_at=now))
            connection.execute(
                delete(credential_secrets).where(credential_secrets.c.credential_id == credential_id)
            )
            return {**current, "archived_at": rfc3339(now)}

        return await self._database.write(body, checks_first=True)

    async def delete(
        self, vault_id: VaultId, credential_id: CredentialId, *, workspace_id: WorkspaceId
    ) -> None:
        def body(connection: Connection) -> None:
            locked_credential(connection, vault_id, credential_id, workspace_id)
            connection.execute(delete(credentials).where(credentials.c.credential_id == credential_id))

        await self._database.write(body, checks_first=True)

    async def page(
        self,
        vault_id: VaultId,
        *,
        workspace_id: WorkspaceId,
        limit: int,
        cursor: str | None,
        include_archived: bool,
    ) -> Page[Wire]:
        listed = NewestFirst(kind=f"credentials of {vault_id}", id_=credentials.c.credential_id)
        statement = listed.behind(_CREDENTIAL, cursor)
        if not include_archived:
            statement = statement.where(credentials.c.archived_at.is_(None))

        def body(connection: Connection) -> Page[Wire]:
            of_vault = _of(vault_id, workspace_id)
            if connection.execute(_THE_VAULT, of_vault).first() is None:
                raise _no_vault(vault_id)
            return listed.page(connection, statement, of_vault, limit=limit, item=with_archival)

        return await self._database.read(body)


def key_is_gone() -> VaultUnavailable:
    """Between looking the key up and writing, it was replaced and forgotten."""
    return VaultUnavailable("The vault's key has just been changed; nothing was written. Try again.")


def _of(vault_id: VaultId, workspace_id: WorkspaceId) -> dict[str, Any]:
    return {"of_vault_id": vault_id, "of_workspace_id": workspace_id}


def _locked_vault(connection: Connection, vault_id: VaultId, workspace_id: WorkspaceId) -> Wire:
    row = connection.execute(_VAULT_LOCKED, _of(vault_id, workspace_id)).first()
    if row is None:
        raise _no_vault(vault_id)
    return with_archival(row)


def locked_credential(
    connection: Connection, vault_id: VaultId, credential_id: CredentialId, workspace_id: WorkspaceId
) -> Wire:
    """Read under the lock of its vault, which is what changes of both wait for. Raises NotFound."""
    values = _of(vault_id, workspace_id)
    if connection.execute(_VAULT_LOCKED, values).first() is None:
        raise _no_vault(vault_id)
    row = connection.execute(_THE_CREDENTIAL, {**values, "of_credential_id": credential_id}).first()
    if row is None:
        raise _no_credential(vault_id, credential_id)
    return with_archival(row)


def store_secrets(
    connection: Connection, credential_id: CredentialId, secrets: Sequence[SealedSecret]
) -> None:
    """Instead of those of the same names. Raises VaultUnavailable."""
    if not secrets:
        return
    connection.execute(
        delete(credential_secrets).where(
            credential_secrets.c.credential_id == credential_id,
            credential_secrets.c.name.in_([secret.name for secret in secrets]),
        )
    )
    rows = [
        {
            "credential_id": credential_id,
            "name": secret.name,
            "key_id": secret.key_id,
            "sealed": secret.sealed,
        }
        for secret in secrets
    ]
    try:
        connection.execute(insert(credential_secrets), rows)
    except IntegrityError as error:  # it names a key that is no more; nothing else can be wrong with it
        raise key_is_gone() from error


def _taken(credential: Wire, by: str) -> Conflict:
    auth = credential["auth"]
    what = auth.get("secret_name") or auth.get("mcp_server_url")
    field = "secret_name" if "secret_name" in auth else "mcp_server_url"
    return Conflict(
        f"auth.{field}: {by} of vault {credential['vault_id']} is for {what!r} already. Update or archive"
        " that one, or use another vault."
    )


def _no_vault(vault_id: VaultId) -> NotFound:
    return NotFound(f"Vault {vault_id!r} was not found.")


def _no_credential(vault_id: VaultId, credential_id: CredentialId) -> NotFound:
    return NotFound(f"Credential {credential_id!r} of vault {vault_id!r} was not found.")
