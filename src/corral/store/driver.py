"""Statements of the hot path, past SQLAlchemy's execution.

On PostgreSQL that costs more than the driver and the server together: for each execution the driver
describes every column, and a result is built around that. So the text of a statement is made once, its
rows are the driver's, and what they hold is converted here. SQLite describes nothing, so there it is
SQLAlchemy's.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.exc import DBAPIError

from corral.store.schema import Exact, JsonBytes, Moment, from_us

__all__ = ["Query", "fetch", "text_of"]


class Query:
    """A SELECT without lists of values. Its rows have the columns' names."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._text = text_of(statement)
        columns = list(statement.selected_columns)
        self._row: Any = namedtuple("Row", statement.selected_columns.keys())  # type: ignore[misc]
        self._conversions: list[tuple[int, Callable[[Any], Any]]] = [
            (number, convert)
            for number, column in enumerate(columns)
            if (convert := _CONVERSIONS.get(type(column.type)))
        ]

    def all(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any]:
        """`values`: as the database has them."""
        if connection.dialect.name != "postgresql":
            return connection.execute(self._statement, values).all()
        return [self._converted(row) for row in fetch(connection, self._text, values)]

    def first(self, connection: Connection, values: Mapping[str, Any]) -> Any | None:
        rows = self.all(connection, values)
        return rows[0] if rows else None

    def _converted(self, row: tuple[Any, ...]) -> Any:
        fields = list(row)
        for number, convert in self._conversions:
            if fields[number] is not None:
                fields[number] = convert(fields[number])
        return self._row(*fields)


_CONVERSIONS: Mapping[type, Callable[[Any], Any]] = {
    JsonBytes: orjson.loads,
    Moment: from_us,
    Exact: Decimal,
}


def text_of(statement: Any, *, has_constants: bool = False) -> str:
    """As PostgreSQL's driver takes it, with its parameters by name; constants of ours may be in it."""
    dialect = psycopg.dialect()  # type: ignore[no-untyped-call]  # it has no types
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": has_constants}))


def fetch(
    connection: Connection, statement: str, values: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """PostgreSQL only: the rows of a statement as the driver gives them. Without `values` it may be several
    statements in one message; the rows are those of the first. Raises DBAPIError, as SQLAlchemy does."""
    driver: Any = connection.connection.driver_connection
    failure: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        rows: list[tuple[Any, ...]] = driver.execute(statement, values).fetchall()
    except failure as error:
        is_lost = bool(driver.closed or driver.broken)
        if is_lost:  # as SQLAlchemy does: who lost one has lost all, and need not find out one by one
            connection.engine.pool._invalidate(connection.connection, error)
            connection.invalidate(error)
        meant = DBAPIError.instance(
            statement, None, error, failure, connection_invalidated=is_lost, dialect=connection.dialect
        )
        raise meant from error
    return rows
