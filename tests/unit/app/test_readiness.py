"""Readiness: a check that cannot be made is a failed check, and the others go on."""

import asyncio
import shutil
import socket
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from corral.api.dependencies import Check
from corral.api.errors import error_response
from corral.app.readiness import Readiness
from corral.kernel.errors import StoreUnavailable
from corral.store.engine import postgres_engine, unavailable


async def fine() -> Check:
    return Check(status="ok")


async def broken() -> Check:
    return Check(status="failed", reason="broken")


async def test_a_data_directory_that_is_gone_is_reported(tmp_path: Path) -> None:
    async def disk() -> Check:
        return Check(status="ok", reason=str(shutil.disk_usage(tmp_path / "gone").free))

    readiness = Readiness({"disk": disk, "fine": fine})
    await readiness.check()
    results = readiness.results()
    assert results["fine"].status == "ok"
    assert results["disk"].status == "failed" and "No such file" in (results["disk"].reason or "")


async def test_a_start_waits_for_this_node_and_not_for_others() -> None:
    readiness = Readiness({"fine": fine}, {"others": broken})
    await readiness.check()
    async with asyncio.timeout(30):
        await readiness.until_ready(patience_seconds=60)
    assert not readiness.is_ready

    waiting = Readiness({"own": broken}, {"others": fine})
    await waiting.check()
    ready = asyncio.create_task(waiting.until_ready(patience_seconds=60))
    await asyncio.sleep(0)
    assert not ready.done()
    ready.cancel()


async def test_what_only_the_operator_may_know_is_in_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, and not with every look. A real driver says it: the port is closed."""
    closed = socket.socket()  # as long as we have the port, nobody else listens there
    closed.bind(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    engine = postgres_engine(
        make_url(f"postgresql+psycopg://someone@127.0.0.1:{port}/ledger"), writes=False
    )

    async def store() -> Check:
        try:
            await asyncio.to_thread(engine.connect)
        except DBAPIError as error:
            raise unavailable(error) from error
        return Check(status="ok")

    readiness = Readiness({"store": store})
    for _ in range(3):
        await readiness.check()
    reason = readiness.results()["store"].reason or ""
    assert "out of reach" in reason and str(port) not in reason and "127.0.0.1" not in reason
    assert [str(port) in each.getMessage() for each in caplog.records] == [True]
    try:
        await store()
    except StoreUnavailable as error:
        assert str(port) in str(error)
        body = error_response(error, "req_1").body
        assert str(port).encode() not in body and b"overloaded_error" in body
    closed.close()
