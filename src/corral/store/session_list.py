"""Lists of sessions: forwards and backwards over (created_at, id)."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, or_, select, type_coerce

from corral.session.record import SessionFilter, SessionPage
from corral.store.rows import RECORDS, read_records
from corral.store.schema import IS_NOT_IDLE, session_memory_stores, sessions

Place = tuple[datetime, str]


def session_page(
    connection: Connection,
    where: SessionFilter,
    *,
    descending: bool,
    limit: int,
    after: Place | None,
    before: Place | None,
) -> SessionPage:
    """At most `limit` sessions behind `after`, or the ones nearest in front of `before`, in list order.

    Both ends are looked at: the session that a place names may be deleted, or match no more. An empty page
    has neither more nor previous: there is nothing left to point from.
    """
    assert after is None or before is None, "a page lies after a place or before one"
    matches = and_(True, *_conditions(where))
    matching = RECORDS.where(matches)
    # What lies before a place is read backwards, from there.
    reads_down = descending if before is None else not descending
    place = after or before
    page = matching if place is None else matching.where(_beyond(place, down=reads_down))
    columns: tuple[ColumnElement[Any], ...] = (sessions.c.created_at, sessions.c.session_id)
    if _is_for_few(where):  # sorted, not walked through: their own index has them by status
        columns = (type_coerce(sessions.c.created_at, BigInteger) + 0, sessions.c.session_id)
    order = [column.desc() if reads_down else column.asc() for column in columns]
    found = read_records(connection, page.order_by(*order).limit(limit + 1), {})
    has_beyond, found = len(found) > limit, found[:limit]
    has_behind = False
    if found and place is not None:
        first = (found[0].created_at, found[0].session_id)
        behind = select(sessions.c.session_id).where(matches, _beyond(first, down=not reads_down))
        has_behind = connection.scalar(behind.limit(1)) is not None
    if before is not None:
        return SessionPage(sessions=found[::-1], has_more=has_behind, has_previous=has_beyond)
    return SessionPage(sessions=found, has_more=has_beyond, has_previous=has_behind)


def _beyond(place: Place, *, down: bool) -> ColumnElement[bool]:
    created_at, session_id = place
    created, id_ = sessions.c.created_at, sessions.c.session_id
    # The first comparison alone says where in the index to begin.
    if down:
        return and_(
            created <= created_at, or_(created < created_at, and_(created == created_at, id_ < session_id))
        )
    return and_(
        created >= created_at, or_(created > created_at, and_(created == created_at, id_ > session_id))
    )


def _is_for_few(where: SessionFilter) -> bool:
    """Whether it asks for sessions of which there are few among many: those that are not idle."""
    return bool(where.statuses) and "idle" not in where.statuses and not where.include_archived


def _conditions(where: SessionFilter) -> list[ColumnElement[bool]]:
    created = sessions.c.created_at
    conditions: list[ColumnElement[bool]] = [sessions.c.workspace_id == where.workspace_id]
    if where.api_key_id is not None:
        conditions.append(sessions.c.api_key_id == where.api_key_id)
    if where.agent_id is not None:
        conditions.append(sessions.c.agent_id == where.agent_id)
    if where.agent_version is not None:
        conditions.append(sessions.c.agent_version == where.agent_version)
    if where.memory_store_id is not None:
        of_store = session_memory_stores.c.memory_store_id == where.memory_store_id
        conditions.append(
            sessions.c.session_id.in_(select(session_memory_stores.c.session_id).where(of_store))
        )
    if where.statuses:
        conditions.append(sessions.c.status.in_(where.statuses))
    if not where.include_archived:
        conditions.append(IS_NOT_IDLE if _is_for_few(where) else sessions.c.archived_at.is_(None))
    if where.created_gt is not None:
        conditions.append(created > where.created_gt)
    if where.created_gte is not None:
        conditions.append(created >= where.created_gte)
    if where.created_lt is not None:
        conditions.append(created < where.created_lt)
    if where.created_lte is not None:
        conditions.append(created <= where.created_lte)
    return conditions
