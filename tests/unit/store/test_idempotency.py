"""Answers to repeated requests: all nodes forget them by one clock."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from corral.catalog.idempotency import Answer, Idempotent, scope
from corral.kernel.limits import IDEMPOTENCY_SECONDS
from corral.store.database import Database
from corral.store.idempotency import Idempotency
from corral.testing.clock import ManualClock


async def test_a_node_whose_clock_is_ahead_forgets_nothing(database_url: str) -> None:
    def request(key: str) -> Idempotent:
        return Idempotent(
            api_key_id="key_1",
            path="/v1/sessions",
            key=key,
            request_sha256=b"same",
            render=lambda result: Answer(status=200, body=result),
        )

    def effect(_connection: Connection) -> bytes:
        return b"first"

    right, ahead = await Database.open(database_url), await Database.open(database_url)
    ahead.clock = ManualClock(datetime.now(UTC) + timedelta(seconds=2 * IDEMPOTENCY_SECONDS))
    try:
        with scope(request("a")):
            await right.write(effect)
        with scope(request("b")):
            await ahead.write(effect)
        for database in (right, ahead):
            for key in ("a", "b"):
                found = await Idempotency(database).find(
                    api_key_id="key_1", path="/v1/sessions", key=key, request_sha256=b"same"
                )
                assert found == Answer(status=200, body=b"first"), key
    finally:
        await right.close()
        await ahead.close()
