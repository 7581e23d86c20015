"""Lists, newest created first, a page at a time, over an index that ends with `created_at` and the id."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, and_, or_

from corral.catalog.records import Wire
from corral.kernel.clock import rfc3339
from corral.kernel.cursor import Page, decode, encode
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import from_us, to_us

__all__ = ["NewestFirst", "with_archival"]

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewestFirst:
    """A list of one table. kind: binds its cursors to it. id_: the column of its ids; `created_at` is
    beside it."""

    kind: str
    id_: "Column[Any]"

    def behind(self, statement: AnySelect, cursor: str | None) -> AnySelect:
        """In order, from behind the cursor. Raises InvalidRequest for a cursor of another list."""
        created_at, id_ = self.id_.table.c.created_at, self.id_
        if cursor is not None:
            microseconds, last_id = decode(self.kind, cursor, shape=(int, str))
            last = from_us(microseconds)
            # `<=` alone says where in the index to begin
            statement = statement.where(
                created_at <= last, or_(created_at < last, and_(created_at == last, id_ < last_id))
            )
        return statement.order_by(created_at.desc(), id_.desc())

    def page(
        self,
        connection: Connection,
        statement: AnySelect,
        values: dict[str, Any],
        *,
        limit: int,
        item: Callable[[AnyRow], Item],
    ) -> Page[Item]:
        """The first of what `behind` made."""
        rows = connection.execute(statement.limit(limit + 1), values).all()
        next_cursor = None
        if len(rows) > limit:
            last = rows[limit - 1]
            next_cursor = encode(self.kind, to_us(last.created_at), last._mapping[self.id_.name])
        return Page(items=[item(row) for row in rows[:limit]], next_cursor=next_cursor)


def with_archival(row: AnyRow) -> Wire:
    """The body, with `archived_at` from the row: it belongs to the record, not to a version of it."""
    shown: dict[str, Any] = dict(row.body)
    shown["archived_at"] = None if row.archived_at is None else rfc3339(row.archived_at)
    return shown
