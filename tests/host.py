"""A hands host on bwrap in this process, behind its socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from corral.daemon import socket_path, token_path
from corral.hands.client import HandsClient
from corral.hands.process import serve_hands
from corral.hands.providers.bwrap import BwrapProvider


@asynccontextmanager
async def host_of(data_dir: Path) -> AsyncIterator[HandsClient]:
    """Its client."""
    ready = asyncio.Event()

    def provider(state_dir: Path) -> BwrapProvider:
        return BwrapProvider(state_dir=state_dir, pool_size=0)

    task = asyncio.create_task(serve_hands(data_dir=data_dir, provider=provider, on_ready=ready.set))
    try:
        await ready.wait()
        token = token_path(data_dir, "hands").read_text()
        client = HandsClient(socket_path(data_dir, "hands"), token=token)
        try:
            probe = await client.probe()
            assert probe.is_available, probe.report
            yield client
        finally:
            await client.aclose()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
