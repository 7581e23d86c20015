"""TLS that is opened for a host with a credential: what goes in, what does not come back, and what is
written down of it. Real sockets, real TLS on both sides."""

import asyncio
import contextlib
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from corral.catalog.credentials import placeholder_of
from corral.egress import wishes
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    EGRESS_HELD_BYTES_MAX,
    EGRESS_HOST_SECRETS_CHARS_MAX,
    EGRESS_REQUEST_BYTES_MAX,
    SECRET_CHARS_MAX,
)
from corral.testing.origin import Origin
from tests.gateway import SECONDS, Gateway, limited, sealed_variable, through_tls

CANARY = "canary/5ecret+of&a=session"
HOST, OTHER = "origin.test", "other.test"
LARGE = 3 * EGRESS_HELD_BYTES_MAX


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Origin]:
    with Origin.start(tmp_path, HOST, OTHER, "sub.origin.test") as origin:
        yield origin


@pytest.fixture
async def gateway(secure: Origin) -> AsyncIterator[Gateway]:
    names = {name: ["127.0.0.1"] for name in (HOST, OTHER, "sub.origin.test", "wrong.test")}
    async with Gateway.start(names=names, trusted=secure.authority) as gateway:
        yield gateway


class Client:
    """A program in a sandbox: one connection through the proxy, and requests on it."""

    def __init__(self, port: int, host: str, far_port: int, authority: Path) -> None:
        self._way = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        self._way.set_tunnel(host, far_port)
        self._where = host
        self._context = ssl.create_default_context(cafile=str(authority))
        if "sesn" in authority.name:
            self._context.verify_flags |= ssl.VERIFY_X509_STRICT  # as newer versions of Python do

    async def __aenter__(self) -> "Client":
        def connect() -> None:
            self._way.connect()
            self._way.sock = self._context.wrap_socket(self._way.sock, server_hostname=self._where)

        await asyncio.to_thread(connect)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._way.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> tuple[int, dict[str, str], bytes]:
        def ask() -> tuple[int, dict[str, str], bytes]:
            self._way.request(method, path, body, dict(headers or {}), encode_chunked=chunked)  # type: ignore[arg-type]
            response = self._way.getresponse()
            return response.status, dict(response.getheaders()), response.read()

        return await asyncio.to_thread(ask)


@contextlib.asynccontextmanager
async def client(
    gateway: Gateway, secure: Origin, host: str = HOST, *, session_id: str = "sesn_1", name: str = "TOKEN"
) -> AsyncIterator[Client]:
    port = gateway.door(session_id=session_id, variables={name: "placeholder"})
    async with Client(port, host, secure.port, await gateway.authority(session_id)) as client:
        yield client


def sent(secure: Origin) -> dict[str, str]:
    """The headers of the last request that the host got."""
    return dict(secure.requests[-1][2])


async def test_a_session_with_more_than_a_request_holds_has_all_of_it(
    gateway: Gateway, secure: Origin
) -> None:
    """As the API allows: 50 vaults of 20 credentials of 16,384 characters."""
    key = (await gateway.ask("vault/newer", {"current": None}))["key"]
    gateway.sealed["sesn_1"] = [
        sealed_variable(
            f"TOKEN_{number}",
            key,
            f"{CANARY} {number} ".ljust(SECRET_CHARS_MAX, "x"),
            networking=limited(HOST if number in (0, 449) else OTHER),
        )
        for number in range(450)
    ]
    assert 450 * SECRET_CHARS_MAX * 4 // 3 > EGRESS_REQUEST_BYTES_MAX
    held = [placeholder_of(SessionId("sesn_1"), f"TOKEN_{number}") for number in (0, 449)]
    async with client(gateway, secure) as program:
        await program.ask("GET", "/", headers={"X-First": held[0], "X-Last": held[1]})
    assert [sent(secure)[name].split()[1] for name in ("X-First", "X-Last")] == ["0", "449"]


async def test_too_many_secrets_for_one_host_are_told_of_at_once(gateway: Gateway, secure: Origin) -> None:
    key = (await gateway.ask("vault/newer", {"current": None}))["key"]
    secret = "x" * SECRET_CHARS_MAX
    fits = EGRESS_HOST_SECRETS_CHARS_MAX // SECRET_CHARS_MAX
    gateway.sealed["sesn_1"] = [
        *(sealed_variable(f"A_{n}", key, secret, networking=limited(HOST)) for n in range(fits + 1)),
        *(sealed_variable(f"B_{n}", key, secret, networking=limited(OTHER)) for n in range(fits)),
    ]
    with pytest.raises(OSError, match=f"503.*for {HOST} have .* characters.*limit the networking"):
        async with client(gateway, secure):
            pass
    async with client(gateway, secure, OTHER) as program:
        assert (await program.ask("GET", "/"))[0] == 200


async def test_a_placeholder_in_a_header(gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY, networking=limited(HOST))
    async with client(gateway, secure) as program:
        headers = {"Authorization": f"Bearer {held}", "X-Twice": f"{held},{held}", "X-Other": "as it is"}
        status, _, body = await program.ask("GET", f"/headers?token={held}", headers=headers)
        assert status == 200
        seen = dict(json.loads(body))
        assert seen["Authorization"] == f"Bearer {held}", "what the host says back is masked"
        assert CANARY not in body.decode()
        got = sent(secure)
        assert got["Authorization"] == f"Bearer {CANARY}" and got["X-Twice"] == f"{CANARY},{CANARY}"
        assert got["X-Other"] == "as it is"
        assert secure.requests[-1][1] == f"/headers?token={held}", "never in a URL"
        assert (await program.ask("GET", "/"))[2] == b"hello"
    assert secure.connections == 1, "requests of a client share a connection to the host, too"
    entries = await gateway.ended()
    assert [(each["method"], each["credential_id"]) for each in entries] == [
        ("CONNECT", None), ("GET", "vcrd_TOKEN"), ("GET", None),
    ]  # fmt: skip
    assert CANARY not in json.dumps(entries) and not any(each["failed"] for each in entries)


async def test_a_placeholder_in_a_body(gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    plain = f"before {held} after".encode()
    async with client(gateway, secure) as program:
        for body, headers in (
            (plain, {}),
            (b"x" * (LARGE - 20) + plain, {}),
            ((plain[at : at + 1] for at in range(len(plain))), {"Transfer-Encoding": "chunked"}),
        ):
            is_chunked = bool(headers)
            _, _, echoed = await program.ask("POST", "/echo", body, headers, chunked=is_chunked)
            assert echoed.endswith(plain), "what comes back is masked"
    lengths = [dict(request[2]).get("Content-Length") for request in secure.requests]
    assert lengths == [str(len(plain) - len(held) + len(CANARY)), None, None]
    entries = [each for each in await gateway.ended() if each["method"] == "POST"]
    assert [each["credential_id"] for each in entries] == [None, "vcrd_TOKEN"] * 3
    assert entries[1]["detail"] == "in the body of the same request"


async def test_it_is_spelled_as_the_body_needs_it(gateway: Gateway, secure: Origin) -> None:
    """And masked, however the host spells what it says back."""
    secret = 'line one\n"quoted" \\ +&é'
    held = await gateway.gives("sesn_1", "TOKEN", secret)
    got: list[bytes] = []
    async with client(gateway, secure) as program:
        for content_type, body in (
            ("application/json; charset=utf-8", json.dumps({"key": held})),
            ("application/x-www-form-urlencoded", f"a=1&key={held}"),
            ("text/plain", f"key={held}"),
        ):
            answer = await program.ask("POST", "/echo", body.encode(), {"Content-Type": content_type})
            assert answer[2].decode() == body
            got.append(secure.bodies[-1])
    assert json.loads(got[0]) == {"key": secret}
    assert got[1] == b"a=1&key=line+one%0A%22quoted%22+%5C+%2B%26%C3%A9"
    assert got[2] == f"key={secret}".encode()


async def test_only_where_it_is_to_be_put(gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives(
        "sesn_1", "A", "canary of A", injection_location={"header": True, "body": False}
    )
    other = await gateway.gives(
        "sesn_1", "B", "canary of B", injection_location={"header": False, "body": True}
    )
    async with client(gateway, secure) as program:
        await program.ask("POST", "/echo", f"{held} {other}".encode(), {"X-Both": f"{held} {other}"})
    assert sent(secure)["X-Both"] == f"canary of A {other}"
    assert secure.bodies[-1] == f"{held} canary of B".encode()


async def test_another_host_gets_the_placeholder(gateway: Gateway, secure: Origin) -> None:
    """Its TLS is passed through: the host's own certificate is what the client sees."""
    held = await gateway.gives("sesn_1", "TOKEN", CANARY, networking=limited("*.origin.test"))
    for host in (HOST, OTHER):
        port = gateway.door(variables={"TOKEN": held})
        assert secure.authority
        async with Client(port, host, secure.port, secure.authority) as program:
            await program.ask("GET", "/headers", headers={"Authorization": held})
            assert sent(secure)["Authorization"] == held
    async with client(gateway, secure, "sub.origin.test") as program:
        await program.ask("GET", "/headers", headers={"Authorization": held})
        assert sent(secure)["Authorization"] == CANARY


async def test_a_sandbox_that_does_not_trust_us_is_let_be(gateway: Gateway, secure: Origin) -> None:
    await gateway.gives("sesn_1", "TOKEN", CANARY)
    assert secure.authority
    assert await through_tls(gateway.door(), HOST, secure.port, "/", authority=secure.authority) == b"hello"


async def test_sessions_have_their_own(gateway: Gateway, secure: Origin) -> None:
    """Placeholder and authority of one are nothing in another."""
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    theirs = await gateway.gives("sesn_2", "TOKEN", "canary of two")
    assert held != theirs
    async with client(gateway, secure, session_id="sesn_2") as program:
        await program.ask("GET", "/headers", headers={"X-Both": f"{held} {theirs}"})
    assert sent(secure)["X-Both"] == f"{held} canary of two"
    port = gateway.door(session_id="sesn_2", variables={"TOKEN": theirs})
    with pytest.raises(ssl.SSLCertVerificationError):
        async with Client(port, HOST, secure.port, await gateway.authority("sesn_1")):
            pass
    failed = [each["failed"] for each in await gateway.ended() if each.get("failed")]
    assert failed and "does not take the certificate of this proxy" in failed[0]


async def test_the_next_egress_process_has_the_same_authorities(gateway: Gateway, secure: Origin) -> None:
    await gateway.gives("sesn_1", "TOKEN", CANARY)
    authority = await gateway.authority("sesn_1")
    port = gateway.door(variables={"TOKEN": "placeholder"})
    await gateway.end()
    await gateway.serve()
    async with Client(port, HOST, secure.port, authority) as program:
        assert (await program.ask("GET", "/"))[2] == b"hello"


async def test_rotation_and_archival_reach_a_connection(
    gateway: Gateway, secure: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    async with client(gateway, secure) as program:

        async def asked() -> str:
            await program.ask("GET", "/headers", headers={"Authorization": held})
            return sent(secure)["Authorization"]

        assert await asked() == CANARY
        monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
        assert await gateway.gives("sesn_1", "TOKEN", "canary after rotation") == held
        assert await asked() == "canary after rotation"
        gateway.sealed.clear()
        assert await asked() == held


async def test_nothing_goes_out_while_nobody_knows(
    gateway: Gateway, secure: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.gives("sesn_1", "TOKEN", CANARY)
    monkeypatch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", 0.1)
    assert gateway.giving
    gateway.giving.cancel()
    with pytest.raises(OSError, match="503 the session's credentials cannot be looked up now"):
        async with client(gateway, secure):
            pass
    assert not secure.connections


async def test_what_a_host_says_back_is_masked(gateway: Gateway, secure: Origin) -> None:
    """In headers, in bodies of every framing, across every border, packed or not."""
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    async with client(gateway, secure) as program:
        for path in (
            "sized",
            "chunked",
            "large",
            "closed",
            "gzip",
            "deflate",
            "header",
            "reason",
            "trailer",
        ):
            async with client(gateway, secure) as fresh:
                asked = {"Authorization": held, "Accept-Encoding": "br, gzip", "Range": "bytes=3-9"}
                status, headers, body = await fresh.ask("GET", f"/reflect/{path}", headers=asked)
            got = sent(secure)
            assert (got["Authorization"], got["Accept-Encoding"]) == (CANARY, "identity")
            assert "Range" not in got, "a part of an answer could be a part of a secret"
            assert status == 200, path
            said = json.dumps(headers) + body.decode("latin-1")
            assert CANARY not in said and "5ecret" not in said, path
            if path not in ("reason", "trailer"):
                assert held in said, path
        status, _, body = await program.ask("GET", "/reflect/br", headers={"Authorization": held})
        assert status == 502 and b"compressed although" in body


async def test_an_answer_that_is_no_http_says_nothing(gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    async with client(gateway, secure) as program:
        status, _, body = await program.ask("GET", "/reflect/nonsense", headers={"Authorization": held})
    assert status == 502 and CANARY.encode() not in body
    assert CANARY not in json.dumps(await gateway.ended())


@pytest.mark.parametrize("kind", [b"\x81", b"\x82"], ids=["at once", "in halves"])
async def test_a_websocket_that_says_a_secret_is_cut(gateway: Gateway, secure: Origin, kind: bytes) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    authority = await gateway.authority("sesn_1")
    port = gateway.door(variables={"TOKEN": held})
    context = ssl.create_default_context(cafile=str(authority))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT {HOST}:{secure.port} HTTP/1.1\r\nHost: {HOST}:{secure.port}\r\n\r\n".encode())
    assert b"200" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    await asyncio.wait_for(writer.start_tls(context, server_hostname=HOST), SECONDS)
    writer.write(
        f"GET /socket HTTP/1.1\r\nHost: {HOST}:{secure.port}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: {held}\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n".encode()
    )
    assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    assert sent(secure)["Authorization"] == CANARY and "Sec-WebSocket-Extensions" not in sent(secure)

    def frame(text: bytes) -> bytes:
        return kind + bytes([0x80 | len(text)]) + bytes(4) + text

    writer.write(frame(b"hello"))
    assert await asyncio.wait_for(reader.readexactly(7), SECONDS) == kind + b"\x05hello"
    writer.write(frame(CANARY.encode()))
    rest = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        rest = await asyncio.wait_for(reader.read(), SECONDS)
    assert CANARY[:8].encode() not in rest, "none of the frame it is in"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_a_host_whose_certificate_is_not_valid(gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    async with client(gateway, secure, "wrong.test") as program:
        status, _, body = await program.ask("GET", "/", headers={"Authorization": held})
    assert status == 502 and b"its certificate is not valid" in body
    assert not secure.requests
    assert "certificate is not valid" in (await gateway.ended())[0]["failed"]


async def test_a_secret_that_no_header_can_have(gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", "canary\nof two lines")
    async with client(gateway, secure) as program:
        status, _, body = await program.ask("GET", "/", headers={"Authorization": held})
    assert status == 502 and b"vcrd_TOKEN has a line end" in body and b"canary" not in body
    assert not secure.requests


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"only HTTP/1.1 is spoken"),
        (b"GET https://other.test/ HTTP/1.1\r\nHost: origin.test:@\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: other.test:@\r\n\r\n", b" 403 origin.test is blocked"),
        (b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: origin.test:@\r\nContent-Length: 3, 4\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: origin.test:@\r\nHost: other.test\r\n\r\n", b" 400 "),
    ],
)  # fmt: skip
async def test_what_is_refused_inside(
    gateway: Gateway, secure: Origin, request_: bytes, status: bytes
) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    context = ssl.create_default_context(cafile=str(await gateway.authority("sesn_1")))
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door(variables={"TOKEN": held}))
    writer.write(f"CONNECT {HOST}:{secure.port} HTTP/1.1\r\nHost: {HOST}:{secure.port}\r\n\r\n".encode())
    assert b"200" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    await asyncio.wait_for(writer.start_tls(context, server_hostname=HOST), SECONDS)
    writer.write(request_.replace(b"@", str(secure.port).encode()))
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    assert status in answer, answer
    assert not secure.requests
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_large_bodies_both_ways(gateway: Gateway, secure: Origin) -> None:
    await gateway.gives("sesn_1", "TOKEN", CANARY)
    size = 20 * 1024 * 1024
    async with client(gateway, secure) as program:
        _, _, body = await program.ask("GET", f"/bytes/{size}")
        assert body == (bytes(range(256)) * 1024) * (size // (256 * 1024))
        assert (await program.ask("POST", "/echo", body))[2] == body
        status, headers, body = await program.ask("HEAD", "/bytes/10")
        assert (status, headers["Content-Length"], body) == (200, "10", b"")
