"""What a column holds, and the metadata that all tables are of."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import BigInteger, Dialect, LargeBinary, MetaData, String, TypeDecorator

from corral.kernel.ids import DEFAULT_WORKSPACE

__all__ = ["IN_DEFAULT_WORKSPACE", "Exact", "JsonBytes", "Moment", "from_us", "metadata", "to_us"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


class Moment(TypeDecorator[datetime]):
    """A UTC time, kept as integer microseconds: exact, ordered, and the same on every engine."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_us(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_us(value)


class JsonBytes(TypeDecorator[Any]):
    """JSON as bytes: read back exactly as written, never searched by the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else orjson.dumps(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)


class Exact(TypeDecorator[Decimal]):
    """A decimal figure, kept as its digits: SQLite would make a float of it. Never compared in SQL."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


metadata = MetaData()

IN_DEFAULT_WORKSPACE: str = DEFAULT_WORKSPACE
"""`server_default` of a `workspace_id` that was added to a table: where the rows of then belong."""
