"""An event stream as raw ASGI: how it ends."""

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from corral.api.gate import paced
from corral.api.sse import Streams
from tests.opened import Opened


async def test_a_stream_whose_announced_body_does_not_come_ends(tmp_path: Path) -> None:
    """A GET with `content-length: 5` and nothing after it."""
    opened = await Opened.open(tmp_path / "corral.db")
    stores = opened.stores
    record = await stores.session()
    parts = SimpleNamespace(log=stores.log, bus=stores.bus, sessions=stores.sessions, clock=stores.clock)
    streams = Streams(parts, None)  # type: ignore[arg-type]
    sent: list[MutableMapping[str, Any]] = []

    async def nothing() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "headers": [(b"content-length", b"5")],
        "query_string": b"",
        "path_params": {"session_id": record.session_id},
    }
    async with asyncio.timeout(60):
        await streams(scope, paced(nothing, silence_seconds=0.05), send)
    assert sent[0]["status"] == 200 and sent[-1]["more_body"] is False
    assert streams.open_count == 0
    await opened.database.close()
