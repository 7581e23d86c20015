"""The audit on the database."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    bindparam,
    delete,
    insert,
    null,
    select,
    update,
)

from corral.catalog.audit import AuditEntry, AuditFilter, Begun, Ended
from corral.kernel.cursor import Page
from corral.kernel.limits import AUDIT_PRUNE_BATCH_MAX
from corral.store.database import Database
from corral.store.newest_first import NewestFirst
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import audit_entries, sessions, tombstones

__all__ = ["Audit"]

_LISTED = NewestFirst(kind="audit", id_=audit_entries.c.entry_id)
_KNOWN = select(audit_entries.c.entry_id).where(
    audit_entries.c.entry_id.in_(bindparam("entry_ids", expanding=True))
)
_OF_SESSIONS: BindParameter[Any] = bindparam("session_ids", expanding=True)
_OWNERS = (
    select(
        sessions.c.session_id, sessions.c.workspace_id, sessions.c.agent_id, sessions.c.api_key_id
    ).where(sessions.c.session_id.in_(_OF_SESSIONS)),
    select(
        tombstones.c.session_id,
        tombstones.c.workspace_id,
        null().label("agent_id"),
        tombstones.c.api_key_id,
    ).where(tombstones.c.session_id.in_(_OF_SESSIONS)),
)
_END = (
    update(audit_entries)
    .where(audit_entries.c.entry_id == bindparam("of_entry_id"), audit_entries.c.seconds.is_(None))
    .values({name: bindparam(name) for name in ("sent_bytes", "received_bytes", "seconds", "failed")})
)
_NTH_NEWEST = select(audit_entries.c.created_at).order_by(
    audit_entries.c.created_at.desc(), audit_entries.c.entry_id.desc()
)


class Audit:
    """`catalog.audit.AuditStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, begun: Sequence[Begun], ended: Sequence[Ended]) -> None:
        def body(connection: Connection) -> None:
            known = set(connection.scalars(_KNOWN, {"entry_ids": [entry.entry_id for entry in begun]}))
            new = {entry.entry_id: entry for entry in begun if entry.entry_id not in known}
            if new:
                owners = _owners(connection, sorted({entry.session_id for entry in new.values()}))
                connection.execute(
                    insert(audit_entries),
                    [{**asdict(entry), **owners[entry.session_id]} for entry in new.values()],
                )
            if ended:
                rows = [asdict(end) for end in ended]
                connection.execute(_END, [{**row, "of_entry_id": row.pop("entry_id")} for row in rows])

        if begun or ended:
            await self._database.write(body)

    async def page(self, where: AuditFilter, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
        chosen: AnySelect = select(audit_entries).where(*_conditions(where))
        statement = _LISTED.behind(chosen, cursor)
        return await self._database.read(
            lambda connection: _LISTED.page(connection, statement, {}, limit=limit, item=_entry)
        )

    async def prune(self, *, before: datetime, keep: int) -> int:
        created_at = audit_entries.c.created_at

        def body(connection: Connection) -> int:
            nth = connection.scalar(_NTH_NEWEST.offset(keep).limit(1))
            outdated = created_at < before if nth is None else (created_at < before) | (created_at <= nth)
            some = (
                select(audit_entries.c.entry_id)
                .where(outdated)
                .order_by(created_at, audit_entries.c.entry_id)
                .limit(AUDIT_PRUNE_BATCH_MAX)
            )
            entry_ids = list(connection.scalars(some))
            connection.execute(delete(audit_entries).where(audit_entries.c.entry_id.in_(entry_ids)))
            return len(entry_ids)

        return await self._database.write(body)


def _owners(connection: Connection, session_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whose sessions they are; a deleted one is remembered for a while."""
    found: dict[str, dict[str, Any]] = {
        session_id: {"workspace_id": None, "agent_id": None, "api_key_id": None}
        for session_id in session_ids
    }
    for statement in _OWNERS:
        for row in connection.execute(statement, {"session_ids": session_ids}):
            values = dict(row._mapping)
            found[values.pop("session_id")] = values
    return found


def _conditions(where: AuditFilter) -> list[ColumnElement[bool]]:
    columns = audit_entries.c
    wanted = {
        columns.workspace_id: where.workspace_id,
        columns.session_id: where.session_id,
        columns.agent_id: where.agent_id,
        columns.api_key_id: where.api_key_id,
        columns.credential_id: where.credential_id,
        columns.host: where.host,
        columns.decision: where.decision,
    }
    conditions = [column == value for column, value in wanted.items() if value is not None]
    if where.created_gte is not None:
        conditions.append(columns.created_at >= where.created_gte)
    if where.created_lt is not None:
        conditions.append(columns.created_at < where.created_lt)
    return conditions


def _entry(row: AnyRow) -> AuditEntry:
    def made(shape: type[Begun] | type[Ended]) -> Any:
        return shape(**{each.name: getattr(row, each.name) for each in fields(shape)})

    return AuditEntry(
        begun=made(Begun),
        ended=None if row.seconds is None else made(Ended),
        workspace_id=row.workspace_id,
        agent_id=row.agent_id,
        api_key_id=row.api_key_id,
    )
