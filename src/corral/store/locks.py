"""Row locks of sessions, taken in the order of their ids."""

from collections.abc import Collection

from sqlalchemy import ARRAY, Column, ColumnElement, Connection, String, any_, bindparam, select

from corral.kernel.ids import SessionId
from corral.store.driver import fetch, text_of
from corral.store.schema import sessions

__all__ = ["any_of", "lock_sessions", "one_of"]


def one_of(column: Column[str], name: str) -> ColumnElement[bool]:
    """Whether the column is in the list that is given as parameter `name`."""
    return column.in_(bindparam(name, expanding=True))


def any_of(column: Column[str], name: str) -> ColumnElement[bool]:
    """The same for PostgreSQL: one text for lists of all lengths, so that its plan is kept."""
    return column == any_(bindparam(name, type_=ARRAY(String)))


_LOCK = text_of(
    select(sessions.c.session_id)
    .where(any_of(sessions.c.session_id, "session_ids"))
    .order_by(sessions.c.session_id)
    .with_for_update()
)


def lock_sessions(connection: Connection, session_ids: Collection[SessionId]) -> None:
    """Hold the rows of these sessions until the commit; those that do not exist are ignored.

    Statements after it see what the rows' last holders have committed. A statement that reads and locks at
    once does not always: PostgreSQL re-reads only the row that it waited for, not those joined to it. So
    what is read under the lock is read after it. On SQLite the transaction itself is the lock.
    """
    if connection.dialect.name == "postgresql":
        # What a caller made up may be no text for the server: whose it is will learn that by itself.
        possible = sorted(each for each in session_ids if each.isascii() and "\0" not in each)
        if possible:
            fetch(connection, _LOCK, {"session_ids": possible})
