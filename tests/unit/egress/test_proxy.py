"""The proxy over real sockets: what goes through, unchanged, and what does not."""

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.testing.certificates import certificates
from corral.testing.origin import Origin
from tests.gateway import SECONDS, Gateway, limited, said_to, through, through_tls, until

BODY = bytes(range(256)) * 4096
LARGE = 20 * 1024 * 1024


@pytest.fixture
def plain() -> Iterator[Origin]:
    with Origin.start() as origin:
        yield origin


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Origin]:
    with Origin.start(tmp_path, "origin.test", "other.test") as origin:
        yield origin


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    here = ["127.0.0.1"]
    names = {"origin.test": here, "other.test": here, "sub.origin.test": here, "localhost": here}
    async with Gateway.start(names=names) as gateway:
        yield gateway


# -- what goes through ----------------------------------------------------------------------------------


async def test_requests_in_clear_text(gateway: Gateway, plain: Origin) -> None:
    port, url = gateway.door(), f"http://origin.test:{plain.port}"
    assert await through(port, "GET", f"{url}/") == (200, "OK", b"hello")
    assert (await through(port, "POST", f"{url}/echo", body=BODY))[2] == BODY
    assert len((await through(port, "GET", f"{url}/chunked/300000"))[2]) == 300_000
    assert await through(port, "HEAD", f"{url}/bytes/10") == (200, "OK", b"")
    assert (await through(port, "GET", f"{url}/status/204"))[0] == 204
    assert (await through(port, "GET", f"{url}/status/304"))[0] == 304
    headers = {"X-One": "1", "Proxy-Authorization": "Basic x", "Connection": "X-Hop", "X-Hop": "2"}
    seen = dict(json.loads((await through(port, "GET", f"{url}/headers?a=b%20c", headers=headers))[2]))
    assert seen["X-One"] == "1" and seen["Host"] == f"origin.test:{plain.port}"
    assert not {"Proxy-Authorization", "X-Hop", "Proxy-Connection"} & set(seen)
    assert plain.requests[-1][1] == "/headers?a=b%20c"


async def test_requests_share_a_connection(gateway: Gateway, plain: Origin) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    for number in range(3):
        writer.write(
            f"GET http://origin.test:{plain.port}/bytes/{number} HTTP/1.1\r\n"
            f"Host: origin.test:{plain.port}\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
        assert f"Content-Length: {number}\r\n".encode() in head
        await reader.readexactly(number)
    writer.close()


async def test_chunked_bodies_both_ways(gateway: Gateway, plain: Origin) -> None:
    request = (
        f"POST http://origin.test:{plain.port}/echo HTTP/1.1\r\nHost: origin.test:{plain.port}\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
    )
    assert (await said_to(gateway.door(), request.encode())).endswith(b"\r\n\r\nabcdefg")


async def test_a_body_that_waits_to_be_asked_for(gateway: Gateway, plain: Origin) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    writer.write(
        f"POST http://origin.test:{plain.port}/echo HTTP/1.1\r\nHost: origin.test:{plain.port}\r\n"
        "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    assert head.startswith(b"HTTP/1.1 100 ")
    writer.write(b"hello")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    assert head.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(5) == b"hello"
    writer.close()


async def test_an_answer_that_comes_before_the_body_is_there(gateway: Gateway) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    far = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    writer.write(
        f"POST http://origin.test:{far}/ HTTP/1.1\r\nHost: origin.test:{far}\r\n"
        "Content-Length: 100000000\r\n\r\n".encode()
        + b"x" * 1000
    )
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b"no!")
    writer.close()
    server.close()


async def test_answers_arrive_as_they_come(gateway: Gateway, plain: Origin) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    writer.write(f"GET http://origin.test:{plain.port}/slow HTTP/1.1\r\n\r\n".replace(
        "\r\n\r\n", f"\r\nHost: origin.test:{plain.port}\r\n\r\n").encode())  # fmt: skip
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n1"), SECONDS)
    assert b"200 OK" in head and not plain.go.is_set()
    plain.go.set()
    assert await reader.readexactly(1) == b"2"
    writer.close()


async def test_tls_is_passed_through(gateway: Gateway, secure: Origin) -> None:
    assert secure.authority
    got = await through_tls(
        gateway.door(), "origin.test", secure.port, f"/bytes/{LARGE}", authority=secure.authority
    )
    whole = (bytes(range(256)) * 1024) * (LARGE // (256 * 1024))
    assert hashlib.sha256(got).digest() == hashlib.sha256(whole).digest()
    [entry] = await gateway.ended()
    assert (entry["host"], entry["method"], entry["decision"]) == ("origin.test", "CONNECT", "allowed")
    assert entry["received_bytes"] > LARGE and entry["sent_bytes"] > 100 and entry["failed"] == ""


async def test_a_client_that_does_not_wait_for_the_connection(gateway: Gateway, plain: Origin) -> None:
    """What it sends with its CONNECT is not forgotten."""
    host = f"Host: origin.test:{plain.port}\r\n"
    said = (
        f"CONNECT origin.test:{plain.port} HTTP/1.1\r\n{host}\r\nGET / HTTP/1.1\r\n{host}Connection: close"
    )
    answer = await said_to(gateway.door(), f"{said}\r\n\r\n".encode())
    assert answer.count(b" 200 ") == 2 and answer.endswith(b"hello")


async def test_a_websocket_in_clear_text(gateway: Gateway, plain: Origin) -> None:
    shake = (
        f"Host: origin.test:{plain.port}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    frame = b"\x81\x85" + bytes(4) + b"hello"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    writer.write(f"GET http://origin.test:{plain.port}/socket HTTP/1.1\r\n{shake}".encode() + frame)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    assert head.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert await reader.readexactly(7) == b"\x81\x05hello"
    writer.write(frame)
    assert await reader.readexactly(7) == b"\x81\x05hello"
    writer.close()
    # and as its clients do it: through a CONNECT, where it is read all the same
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    writer.write(
        f"CONNECT origin.test:{plain.port} HTTP/1.1\r\nHost: origin.test:{plain.port}\r\n\r\n".encode()
    )
    assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    writer.write(f"GET /socket HTTP/1.1\r\n{shake}".encode() + frame)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    assert await reader.readexactly(7) == b"\x81\x05hello"
    writer.close()


async def test_a_host_that_speaks_first(gateway: Gateway) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        writer.write(b"heard " + await reader.readline())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    far = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
    writer.write(f"CONNECT origin.test:{far} HTTP/1.1\r\nHost: origin.test:{far}\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    assert await asyncio.wait_for(reader.readline(), SECONDS) == b"220 ready\r\n"
    writer.write(b"EHLO\r\n")
    assert await asyncio.wait_for(reader.read(), SECONDS) == b"heard EHLO\r\n"
    writer.close()
    server.close()


async def test_two_hundred_at_once(gateway: Gateway, secure: Origin) -> None:
    assert secure.authority
    port, authority = gateway.door(), secure.authority
    got = await asyncio.gather(
        *(through_tls(port, "origin.test", secure.port, "/", authority=authority) for _ in range(200))
    )
    assert got == [b"hello"] * 200


# -- what does not --------------------------------------------------------------------------------------


async def test_a_limited_environment_reaches_what_it_names(gateway: Gateway, plain: Origin) -> None:
    port = gateway.door(limited("origin.test", "*.other.test"))
    assert (await through(port, "GET", f"http://ORIGIN.test.:{plain.port}/"))[0] == 200
    for host in ("other.test", "sub.origin.test", "localhost", "127.0.0.1", "no-such.test"):
        status, reason, body = await through(port, "GET", f"http://{host}:{plain.port}/")
        assert status == 403 and host in reason and host.encode() in body
        answer = await said_to(
            port, f"CONNECT {host}:{plain.port} HTTP/1.1\r\nHost: {host}:{plain.port}\r\n\r\n".encode()
        )
        assert answer.startswith(f"HTTP/1.1 403 {host} is blocked: ".encode())
    assert len(plain.requests) == 1 and plain.connections == 1
    denied = [entry for entry in await gateway.entries() if entry["decision"] == "denied"]
    assert len(denied) == 10 and {entry["host"] for entry in denied} >= {"localhost", "127.0.0.1"}


async def test_endpoints_of_mcp_servers_are_opened_where_that_is_said(
    gateway: Gateway, plain: Origin
) -> None:
    opened = [("origin.test", plain.port)]
    with Origin.start() as elsewhere:

        async def asked(networking: dict[str, object], host: str, port: int) -> int:
            door = gateway.door(networking, mcp_endpoints=opened)
            return (await through(door, "GET", f"http://{host}:{port}/"))[0]

        wide = limited("other.test", allow_mcp_servers=True)
        assert await asked(wide, "origin.test", plain.port) == 200
        assert await asked(wide, "other.test", elsewhere.port) == 200
        assert await asked(wide, "origin.test", elsewhere.port) == 403, "another port is another server"
        assert await asked(wide, "sub.origin.test", plain.port) == 403
        for networking in (limited(), limited(allow_mcp_servers=False), {"allow_mcp_servers": True}):
            assert await asked(networking, "origin.test", plain.port) == 403
        for port in (plain.port, elsewhere.port):
            assert await asked({"type": "unrestricted"}, "origin.test", port) == 200


async def test_nothing_is_allowed_unless_it_is_said(gateway: Gateway, plain: Origin) -> None:
    for networking in (limited(), {"type": "limited"}, {"type": "brand_new"}, {}):
        port = gateway.door(networking)
        assert (await through(port, "GET", f"http://origin.test:{plain.port}/"))[0] == 403
    assert not plain.connections


async def test_tls_for_another_host(gateway: Gateway, secure: Origin) -> None:
    """Not a byte of it reaches the host."""
    assert secure.authority
    with pytest.raises(OSError, match="unrecognized name"):
        await through_tls(
            gateway.door(), "origin.test", secure.port, "/", authority=secure.authority,
            server_name="other.test",
        )  # fmt: skip
    assert not secure.requests
    allowed, denied = await gateway.ended()
    assert (allowed["decision"], allowed["sent_bytes"]) == ("allowed", 0)
    assert denied["decision"] == "denied" and "'other.test'" in denied["detail"]


async def test_http_2_is_between_the_program_and_the_host(gateway: Gateway, tmp_path: Path) -> None:
    authority, chain, key = certificates(tmp_path, "origin.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    preface, frame = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes.fromhex("000000040000000000")

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(preface)) == preface
        writer.write(frame)  # its settings
        writer.close()

    async with (
        await asyncio.start_server(host, "127.0.0.1", 0, ssl=context) as server,
        asyncio.timeout(SECONDS),
    ):
        where = f"origin.test:{server.sockets[0].getsockname()[1]}"
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
        writer.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        ours = ssl.create_default_context(cafile=str(authority))
        ours.set_alpn_protocols(["h2", "http/1.1"])
        await writer.start_tls(ours, server_hostname="origin.test")
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.write(preface)
        assert await reader.read() == frame
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_host_header_for_another_host(gateway: Gateway, plain: Origin) -> None:
    url, other = f"http://origin.test:{plain.port}/", {"Host": f"other.test:{plain.port}"}
    status, reason, _ = await through(gateway.door(), "GET", url, headers=other)
    assert status == 403 and "Host header" in reason
    opened, mine = (f"{name}:{plain.port}" for name in ("origin.test", "other.test"))
    for begin, answer in (("\r\nG", b" 400 "), ("G", b" 403 origin.test is blocked")):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.door())
        writer.write(f"CONNECT {opened} HTTP/1.1\r\nHost: {opened}\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
        writer.write(begin.encode())  # as servers would read it, too
        await writer.drain()
        writer.write(f"ET / HTTP/1.1\r\nHost: {mine}\r\n\r\n".encode())
        said = await asyncio.wait_for(reader.read(), SECONDS)
        writer.close()
        assert said.startswith(b"HTTP/1.1" + answer), said
    assert not plain.requests
    first, then = (f"CONNECT {each} HTTP/1.1\r\nHost: {each}\r\n\r\n" for each in (opened, mine))
    inside = f"{first}HEAD /status/204 HTTP/1.1\r\nHost: {opened}\r\n\r\n{then}"
    assert b" 403 other.test is blocked" in await said_to(gateway.door(), inside.encode())
    denied = [entry for entry in await gateway.ended() if entry["decision"] == "denied"]
    assert [(entry["method"], entry["host"]) for entry in denied] == [
        ("GET", "origin.test"), ("GET", "origin.test"), ("CONNECT", "other.test"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        "GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n",
        "GET https://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n",
        "GET http://user:word@origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n",
        "GET http://origin.test:0/ HTTP/1.1\r\nHost: origin.test:0\r\n\r\n",
        "GET http://origin.test:99999/ HTTP/1.1\r\nHost: origin.test:99999\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://origin%2etest/ HTTP/1.1\r\nHost: origin%2etest\r\n\r\n",
        "CONNECT origin.test HTTP/1.1\r\n\r\n",
        "CONNECT [::1%25lo]:443 HTTP/1.1\r\n\r\n",
        "CONNECT origin.test:443:443 HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nHost: other.test\r\n\r\n",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 1\r\n"
        "Content-Length: 2\r\n\r\n",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: +1\r\n\r\n",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "nonsense\r\n\r\n",
        "X" * 33 + " http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: " + "x" * 400_000 + "\r\n\r\n",
    ],
)
async def test_what_can_be_read_in_two_ways_is_refused(gateway: Gateway, request_: str) -> None:
    answer = await said_to(gateway.door(), request_.encode())
    assert answer[9:12] in (b"400", b"403", b"431", b"501"), answer
    assert not [entry for entry in await gateway.entries() if entry["decision"] == "allowed"]


async def test_lengths_and_chunks_in_one_request(gateway: Gateway, plain: Origin) -> None:
    """The second is what counts, and all that goes on: no room is left for another request to hide in."""
    request = (
        f"POST http://origin.test:{plain.port}/echo HTTP/1.1\r\nHost: origin.test:{plain.port}\r\n"
        "Content-Length: 100\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )
    answer = await said_to(gateway.door(), request.encode())
    if answer[9:12] != b"400":
        assert answer.endswith(b"\r\n\r\nx")
        names = [name.lower() for name, _ in plain.requests[0][2]]
        assert "content-length" not in names and names.count("transfer-encoding") == 1


async def test_hosts_that_do_not_answer_as_they_should(gateway: Gateway, plain: Origin) -> None:
    port = gateway.door()
    status, reason, _ = await through(port, "GET", "http://no-such.test/")
    assert status == 502 and "no-such.test cannot be reached" in reason
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
        answer = await said_to(
            port, f"CONNECT origin.test:{nobody} HTTP/1.1\r\nHost: origin.test:{nobody}\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 502 ")
    assert (await through(port, "GET", f"http://origin.test:{plain.port}/nonsense"))[0] == 502
    failed = [entry["failed"] for entry in await gateway.ended()]
    assert len(failed) == 3 and all(failed)


async def test_a_door_that_closes_ends_what_went_through(gateway: Gateway, plain: Origin) -> None:
    port = gateway.door()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"CONNECT origin.test:{plain.port} HTTP/1.1\r\nHost: origin.test:{plain.port}\r\n\r\n".encode()
    )
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    [way_out] = gateway.ways_out
    await way_out.close()
    assert await asyncio.wait_for(reader.read(), SECONDS) == b""
    writer.close()

    async def is_closed() -> bool:
        try:
            _, again = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return True
        again.close()
        return False

    await until(is_closed)


async def test_another_egress_process_takes_the_doors_over(gateway: Gateway, plain: Origin) -> None:
    port, url = gateway.door(), f"http://origin.test:{plain.port}/"
    assert (await through(port, "GET", url))[0] == 200
    await gateway.end()
    waiting = asyncio.ensure_future(through(port, "GET", url))
    await gateway.serve()
    assert (await waiting)[0] == 200
    assert len(await gateway.entries()) == 2
