"""A host that got a secret answers anything: what reaches the sandbox of it, the secret is not in."""

import asyncio
import contextlib
import gzip
import logging
import ssl
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.egress import wishes
from corral.testing.certificates import certificates
from tests.gateway import SECONDS, Gateway

HOST = "origin.test"
CANARY = b"canary-0f-an-honest-s3cret"
HALF = len(CANARY) // 2
_STATUS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/1.1 204 \r\n",
    b"HTTP/1.1 302 Found\r\nLocation: https://else.test/%b\r\n" % CANARY, b"HTTP/2 200\r\n",
    b"HTTP/1.1 200 %b\r\n" % CANARY, b"%b\r\n" % CANARY,
]  # fmt: skip
_HEADERS = [
    b"Content-Length: 26\r\n", b"Content-Length: 100000\r\n", b"Content-Length: 26, 26\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Content-Encoding: br\r\n",
    b"Connection: close\r\n", b"X: %b\r\n" % CANARY, b"%b: x\r\n" % CANARY,
    b"X: %b\r\n %b\r\n" % (CANARY[:HALF], CANARY[HALF:]), b"Trailer: X\r\n",
    b"Set-Cookie: a=%b\r\n" % CANARY,
]  # fmt: skip
_BODIES = [
    CANARY, CANARY[:HALF], CANARY[HALF:], b"x" * 300_000 + CANARY, gzip.compress(CANARY),
    gzip.compress(CANARY[:HALF]) + gzip.compress(CANARY[HALF:]), zlib.compress(CANARY), b"\n", b"\r\n",
    b"1a\r\n%b\r\n" % CANARY, b"d\r\n%b\r\nd\r\n%b\r\n" % (CANARY[:HALF], CANARY[HALF:]),
    b"0\r\nX: %b\r\n\r\n" % CANARY, b"0\r\n\r\n", b"\x81\x1a" + CANARY, b"\x01\x0d" + CANARY[:HALF],
    b"\x80\x0d" + CANARY[HALF:], b"\x89\x1a" + CANARY, b"\x88\x1c\x03\xe8" + CANARY,
]  # fmt: skip
ANSWERS = st.tuples(
    st.lists(st.sampled_from(_STATUS), min_size=1, max_size=2),
    st.lists(st.sampled_from(_HEADERS), max_size=4),
    st.sampled_from([b"\r\n", b"\n", b""]),
    st.lists(st.one_of(st.sampled_from(_BODIES), st.binary(max_size=40)), max_size=6),
)


@dataclass
class Liar:
    """answer: what it says next, piece by piece. got: what it was asked."""

    answer: list[bytes] = field(default_factory=list)
    got: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.got = await reader.readuntil(b"\r\n\r\n")
            for piece in self.answer:
                writer.write(piece)
                await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def stand() -> Iterator[tuple[asyncio.Runner, Gateway, Liar, int]]:
    """A runner for all of it, the egress process, the host, and its port."""
    with (
        asyncio.Runner() as runner,
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", 30.0)  # on a busy machine
        authority, chain, key = certificates(Path(folder), HOST)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        liar, stack = Liar(), contextlib.AsyncExitStack()

        async def opened() -> tuple[Gateway, int]:
            server = await asyncio.start_server(liar.serve, "127.0.0.1", 0, ssl=context)
            stack.callback(server.close)
            start = Gateway.start(names={HOST: ["127.0.0.1"]}, trusted=authority)
            return await stack.enter_async_context(start), int(server.sockets[0].getsockname()[1])

        gateway, port = runner.run(opened())
        try:
            yield runner, gateway, liar, port
        finally:
            runner.run(stack.aclose())


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(answer=ANSWERS)
def test_whatever_a_host_answers_the_secret_is_not_in_it(
    stand: tuple[asyncio.Runner, Gateway, Liar, int],
    caplog: pytest.LogCaptureFixture,
    answer: tuple[list[bytes], list[bytes], bytes, list[bytes]],
) -> None:
    runner, gateway, liar, port = stand
    status, headers, end, body = answer
    liar.answer, liar.got = [b"".join([*status, *headers, end]), *body], b""
    came = runner.run(asked(gateway, port))
    assert CANARY in liar.got, "it was put in"
    assert CANARY not in came
    assert CANARY not in b"".join(frame_payloads(came))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert CANARY.decode() not in caplog.text


async def asked(gateway: Gateway, port: int) -> bytes:
    """All that comes back for one request with the placeholder."""
    placeholder = await gateway.gives("sesn_1", "TOKEN", CANARY.decode())
    context = ssl.create_default_context(cafile=str(await gateway.authority("sesn_1")))
    door = gateway.door(variables={"TOKEN": placeholder})
    reader, writer = await asyncio.open_connection("127.0.0.1", door)
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            await writer.start_tls(context, server_hostname=HOST)
            writer.write(
                f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: Upgrade\r\n"
                f"Upgrade: websocket\r\nAuthorization: {placeholder}\r\n\r\n".encode()
            )
            came = b""
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    came += data
            return came
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def frame_payloads(came: bytes) -> Iterator[bytes]:
    """Of what may be frames of a WebSocket after a head, as a client puts messages together."""
    _, _, rest = came.partition(b"\r\n\r\n")
    while len(rest) >= 2 and rest[1] < 126:
        yield rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
