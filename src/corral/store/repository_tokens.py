"""Tokens of the repositories of sessions. They come sealed, and are read for the egress process and for
whoever seals them anew; never for the API or a brain.

A token lives as long as its session: it goes when that is archived or deleted.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.vaults import SealedSecret, StoredSecret
from corral.kernel.ids import ResourceId, SessionId, WorkspaceId
from corral.store.schema import repository_tokens, sessions
from corral.store.vaults import key_is_gone

__all__ = [
    "forget_tokens",
    "insert_tokens",
    "replace_token",
    "seal_token_anew",
    "tokens_of",
    "tokens_sealed_with",
]

_TOKENS = select(
    repository_tokens.c.resource_id,
    repository_tokens.c.url,
    repository_tokens.c.key_id,
    repository_tokens.c.sealed,
    sessions.c.workspace_id,
).join_from(repository_tokens, sessions, sessions.c.session_id == repository_tokens.c.session_id)
_OF_SESSION = _TOKENS.where(
    repository_tokens.c.session_id == bindparam("of_session_id"), sessions.c.terminated_at.is_(None)
).order_by(repository_tokens.c.resource_id)
_SEALED_WITH = _TOKENS.where(
    repository_tokens.c.key_id.in_(bindparam("of_key_ids", expanding=True))
).order_by(repository_tokens.c.resource_id)
_FORGET = delete(repository_tokens).where(repository_tokens.c.session_id == bindparam("of_session_id"))


def insert_tokens(connection: Connection, session_id: SessionId, tokens: Sequence[SealedToken]) -> None:
    """Raises VaultUnavailable: the key of one is no longer in use."""
    rows = [
        {
            "resource_id": token.place.resource_id,
            "session_id": session_id,
            "url": token.place.url,
            "key_id": token.key_id,
            "sealed": token.sealed,
        }
        for token in tokens
    ]
    if not rows:
        return
    try:
        connection.execute(insert(repository_tokens), rows)
    except IntegrityError as error:
        raise key_is_gone() from error


def replace_token(connection: Connection, session_id: SessionId, token: SealedToken) -> None:
    """Raises as `insert_tokens`."""
    connection.execute(
        delete(repository_tokens).where(repository_tokens.c.resource_id == token.place.resource_id)
    )
    insert_tokens(connection, session_id, [token])


def forget_tokens(connection: Connection, session_id: SessionId) -> None:
    connection.execute(_FORGET, {"of_session_id": session_id})


def tokens_of(connection: Connection, session_id: SessionId) -> list[SealedToken]:
    """None of a session that has ended."""
    return [_token(row) for row in connection.execute(_OF_SESSION, {"of_session_id": session_id})]


def tokens_sealed_with(
    connection: Connection, key_ids: Sequence[str], *, after: str | None, limit: int
) -> list[StoredSecret]:
    """Ordered by resource id, after one."""
    statement = _SEALED_WITH.limit(limit)
    if after is not None:
        statement = statement.where(repository_tokens.c.resource_id > after)
    found = map(_token, connection.execute(statement, {"of_key_ids": list(key_ids)}))
    return [StoredSecret(place=each.place, key_id=each.key_id, sealed=each.sealed) for each in found]


def seal_token_anew(connection: Connection, before: StoredSecret, after: SealedSecret) -> int:
    """Replace it if it is still as it was; returns how many were."""
    done = connection.execute(
        update(repository_tokens)
        .where(
            repository_tokens.c.resource_id == before.place.credential_id,
            repository_tokens.c.sealed == before.sealed,
        )
        .values(key_id=after.key_id, sealed=after.sealed)
    )
    return done.rowcount


def _token(row: Any) -> SealedToken:
    place = TokenPlace(
        workspace_id=WorkspaceId(row.workspace_id), resource_id=ResourceId(row.resource_id), url=row.url
    )
    return SealedToken(place=place, key_id=row.key_id, sealed=bytes(row.sealed))
