"""PostgreSQL's driver without SQLAlchemy's result sets, for the statements of the hot path.

There each statement is run once for a whole batch, so what matters is what one execution costs: describing
eleven columns and building a result around them takes longer than reading the rows.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

__all__ = ["fetch"]


def fetch(
    connection: Connection, statement: str, values: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """The rows of a statement, with the values that the driver gives. Without `values` it may be several
    statements in one message; the rows are those of the first. Raises DBAPIError, as SQLAlchemy does."""
    driver: Any = connection.connection.driver_connection
    failure: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        rows: list[tuple[Any, ...]] = driver.execute(statement, values).fetchall()
    except failure as error:
        is_lost = bool(driver.closed or driver.broken)
        if is_lost:
            connection.invalidate(error)
        meant = DBAPIError.instance(
            statement, None, error, failure, connection_invalidated=is_lost, dialect=connection.dialect
        )
        raise meant from error
    return rows
