"""The egress process as its supervisor meets it: over its socket."""

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.daemon import socket_path, token_path
from corral.egress.process import serve_egress
from corral.kernel.errors import Conflict, InvalidRequest
from corral.testing.clock import skip

SECONDS = 60.0


@pytest.fixture
async def data_dir() -> AsyncIterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="corral-"))  # not under pytest's: a socket's path is short
    yield path
    shutil.rmtree(path)


async def started(data_dir: Path, *, unadopted_seconds: float = SECONDS) -> "asyncio.Task[None]":
    ready = asyncio.Event()
    egress = asyncio.ensure_future(
        serve_egress(data_dir=data_dir, unadopted_seconds=unadopted_seconds, on_ready=ready.set)
    )
    await asyncio.wait_for(ready.wait(), SECONDS)
    return egress


async def ask(data_dir: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket_path(data_dir, "egress"))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.close()
        await writer.wait_closed()


def get(data_dir: Path, path: str, token: str | None = None) -> bytes:
    token = token or token_path(data_dir, "egress").read_text()
    return f"GET /corral/egress/v1/{path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


async def test_it_answers_who_has_the_token_and_nobody_else(data_dir: Path) -> None:
    egress = await started(data_dir)
    head, _, body = (await ask(data_dir, get(data_dir, "health"))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["pid"] == os.getpid()
    assert json.loads(body)["counts"] == {"doors": 0, "connections": 0, "audit_bytes": 0}
    for request, status in (
        (get(data_dir, "health", "wrong"), b"401"),
        (b"GET /corral/egress/v1/health HTTP/1.1\r\n\r\n", b"401"),
        (get(data_dir, "nothing"), b"404"),
        (get(data_dir, "health").replace(b"GET", b"POST"), b"404"),
    ):
        assert (await ask(data_dir, request)).split(b" ")[1] == status
    for nonsense in (b"\r\n\r\n", b"x" * 20_000):
        assert await ask(data_dir, nonsense) == b""
    assert stat.S_IMODE(socket_path(data_dir, "egress").stat().st_mode) == 0o600
    assert stat.S_IMODE(token_path(data_dir, "egress").stat().st_mode) == 0o600
    assert stat.S_IMODE(token_path(data_dir, "egress").parent.stat().st_mode) == 0o700
    egress.cancel()
    await asyncio.wait([egress])


async def test_it_lives_while_it_is_adopted(data_dir: Path) -> None:
    egress = await started(data_dir, unadopted_seconds=20.0)
    reader, writer = await asyncio.open_unix_connection(socket_path(data_dir, "egress"))
    writer.write(get(data_dir, "adopt"))
    await asyncio.wait_for(reader.readuntil(b"}\n"), SECONDS)
    skip(25.0)
    done, _ = await asyncio.wait([egress], timeout=0.3)
    assert not done
    writer.close()
    async with asyncio.timeout(SECONDS):
        while b'"is_supervised": true' in await ask(data_dir, get(data_dir, "health")):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    skip(25.0)
    await asyncio.wait_for(egress, SECONDS)
    assert not socket_path(data_dir, "egress").exists()


async def test_one_per_data_directory(data_dir: Path) -> None:
    egress = await started(data_dir)
    with pytest.raises(Conflict):
        await serve_egress(data_dir=data_dir)
    egress.cancel()
    await asyncio.wait([egress])


async def test_a_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="shorter data directory"):
        await serve_egress(data_dir=tmp_path / ("x" * 100))
