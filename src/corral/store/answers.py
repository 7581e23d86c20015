"""Recording the answer to a keyed request, in the transaction of its effect."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert
from sqlalchemy.exc import IntegrityError

from corral.catalog.idempotency import Idempotent
from corral.kernel.errors import Conflict
from corral.kernel.limits import IDEMPOTENCY_SECONDS
from corral.store.schema import idempotency

__all__ = ["record_answer"]

_PRUNE = delete(idempotency).where(idempotency.c.created_at <= bindparam("until"))


def record_answer(connection: Connection, request: Idempotent, result: Any, *, now: datetime) -> None:
    """Store the answer to `request`; expired records make room. Raises Conflict if a twin was first, which
    undoes the effect with it.

    now: by the database's clock. A node whose own clock is ahead would forget what others have to remember.
    """
    answer = request.render(result)
    connection.execute(_PRUNE, {"until": now - timedelta(seconds=IDEMPOTENCY_SECONDS)})
    try:
        connection.execute(
            insert(idempotency),
            {
                "api_key_id": request.api_key_id,
                "path": request.path,
                "key": request.key,
                "request_sha256": request.request_sha256,
                "status": answer.status,
                "body": answer.body,
                "created_at": now,
            },
        )
    except IntegrityError as error:
        raise Conflict(
            f"A request with Idempotency-Key {request.key!r} is in progress or has just been answered."
            " Repeat this one to get its answer.",
            retryable=True,
        ) from error
