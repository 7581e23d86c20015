"""Finding the answer to a repeated request. `answers.py` records it."""

from datetime import timedelta

from sqlalchemy import Connection, bindparam, select

from corral.catalog.idempotency import Answer
from corral.kernel.errors import Conflict
from corral.kernel.limits import IDEMPOTENCY_SECONDS
from corral.store.database import Database
from corral.store.rows import AnyRow
from corral.store.schema import from_us, idempotency

__all__ = ["Idempotency"]

_FIND = select(idempotency.c.request_sha256, idempotency.c.status, idempotency.c.body).where(
    idempotency.c.api_key_id == bindparam("of_api_key_id"),
    idempotency.c.path == bindparam("of_path"),
    idempotency.c.key == bindparam("of_key"),
    idempotency.c.created_at > bindparam("after"),
)


class Idempotency:
    """`catalog.idempotency.IdempotencyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, *, api_key_id: str, path: str, key: str, request_sha256: bytes) -> Answer | None:
        def body(connection: Connection) -> AnyRow | None:
            now = from_us(self._database.now_us(connection))
            after = now - timedelta(seconds=IDEMPOTENCY_SECONDS)
            values = {"of_api_key_id": api_key_id, "of_path": path, "of_key": key, "after": after}
            return connection.execute(_FIND, values).first()

        row = await self._database.read(body)
        if row is None:
            return None
        if bytes(row.request_sha256) != request_sha256:
            raise Conflict(
                f"Idempotency-Key {key!r} was already used with another request body. Use a new key."
            )
        return Answer(status=row.status, body=bytes(row.body))
