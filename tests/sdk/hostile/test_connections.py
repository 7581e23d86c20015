"""Requests that are cut off, too large, contradict themselves, or are no requests at all."""

import gzip
import json
import random
import select
import socket
import struct
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.kernel.limits import HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX, REQUEST_BODY_BYTES_MAX
from tests.sdk.conftest import Server, eventually
from tests.sdk.hostile.wire import AGENT, answers, ask, chunked, connect, head, pad, post

# -- cut off -------------------------------------------------------------------------------------------


def test_requests_that_are_cut_off_anywhere(server: Server) -> None:
    """In the head, in a body, a chunk, a form, in the middle of 32 MB; by an end or by a reset."""
    boundary = "content-type: multipart/form-data; boundary=b"
    part = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n--b--\r\n' % AGENT
    )
    coding = "transfer-encoding: chunked"
    whole = [
        post(server),
        head(server, "POST /v1/agents", coding) + chunked(AGENT, 7),
        post(server, part, boundary, path="/v1/files"),
        head(server, "POST /v1/files", boundary, coding) + chunked(part, 9),
        post(server, part.replace(b'"file"', b'"files"'), boundary, path="/v1/skills"),
        post(server, gzip.compress(AGENT), "content-encoding: gzip"),
    ]
    dice = random.Random(4)
    cuts = [raw[:at] for raw in whole for at in dice.sample(range(1, len(raw)), 12)]
    large = post(server, pad(REQUEST_BODY_BYTES_MAX))
    cuts += [large[:at] for at in (1 << 20, len(large) // 2, len(large) - 1)]
    for number, cut in enumerate(cuts):
        with connect(server) as connection:
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(cut)
    eventually(lambda: server.deps.admission.bodies_bytes < 1 << 20)  # the slow ones sent some, too


def test_a_client_that_goes_away_from_a_stream_with_a_request_behind_it(
    server: Server, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.api.sse.SSE_KEEPALIVE_SECONDS", 0.1)  # the next write notices
    stream = head(server, f"GET /v1/sessions/{session_id}/events/stream")
    for behind in (b"", head(server, "GET /v1/agents"), b"garbage\r\n\r\n"):
        with connect(server) as connection:
            connection.sendall(stream + behind)
            while b": connected" not in connection.recv(1 << 16):
                pass
            eventually(lambda: server.api.state.streams.open_count == 1)
        eventually(lambda: server.api.state.streams.open_count == 0)


def test_a_client_that_takes_nothing_of_its_answers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.api.connection.HTTP_STALL_SECONDS", 0.2)
    with connect(server) as connection:
        here = connection.getsockname()

        def is_there() -> bool:
            return any(each.client == here for each in list(server.http_server.server_state.connections))

        connection.sendall(head(server, "GET /v1/agents?limit=1"))
        assert connection.recv(1)
        assert is_there()
        connection.sendall(head(server, "GET /corral/v1/openapi.json") * 150)  # more than sockets hold
        eventually(lambda: not is_there())


# -- large ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 413), (1 << 20, 413)])
def test_bodies_around_the_bound(server: Server, more: int, status: int) -> None:
    body = pad(REQUEST_BODY_BYTES_MAX + more)
    packed = gzip.compress(body, 1)
    for raw in (
        post(server, body, "connection: close"),
        head(server, "POST /v1/agents", "transfer-encoding: chunked", "connection: close") + chunked(body),
        post(server, packed, "content-encoding: gzip", "connection: close"),
    ):
        [(seen, _)] = ask(server, raw)
        assert seen == status


def test_a_bomb_costs_no_more_than_a_body(server: Server) -> None:
    bomb = gzip.compress(b" " * 4 * REQUEST_BODY_BYTES_MAX, 1)
    assert len(bomb) < 1 << 20
    [(status, _)] = ask(server, post(server, bomb, "content-encoding: gzip", "connection: close"))
    assert status == 413


# -- contradictions ------------------------------------------------------------------------------------


def test_what_contradicts_itself_is_refused(server: Server) -> None:
    def framed(*lines: str, body: bytes = AGENT) -> bytes:
        return head(server, "POST /v1/agents", *lines) + body

    length, coding = f"content-length: {len(AGENT)}", "transfer-encoding: chunked"
    many = [f"x-{number}: 1" for number in range(10_000)]
    huge = HTTP_HEAD_BYTES_MAX
    for name, raw, status in (
        ("two lengths", framed(length, "content-length: 3"), 400),
        ("the same length twice", framed(length, length), 400),
        ("a length and a coding", framed(length, coding, body=chunked(AGENT)), 400),
        ("a coding and a length", framed(coding, length, body=chunked(AGENT)), 400),
        ("two codings", framed(coding, coding, "connection: close", body=chunked(AGENT)), 400),
        ("another coding", framed("transfer-encoding: gzip"), 400),
        ("a coding that is not last", framed("transfer-encoding: chunked, gzip"), 400),
        ("a negative length", framed("content-length: -1"), 400),
        ("a signed length", framed("content-length: +29"), 400),
        ("an endless length", framed("content-length: " + "9" * 40), 400),
        ("a list of lengths", framed("content-length: 29, 29"), 400),
        ("no length of a chunk", framed(coding, body=b"zz\r\n"), 400),
        ("a negative chunk", framed(coding, body=b"-1\r\n"), 400),
        ("an endless chunk", framed(coding, body=b"f" * 40 + b"\r\n"), 400),
        ("a chunk longer than it says", framed(coding, body=b"1\r\n{}\r\n0\r\n\r\n"), 400),
        ("a folded line", framed(length, "x: a\r\n b"), 400),
        ("a space before the colon", framed("content-length : 29"), 400),
        ("a line without a name", framed(": 29"), 400),
        ("a null character", framed(length, "x: a\0b"), 400),
        ("bare line feeds", framed(length).replace(b"\r\n", b"\n"), 400),
        ("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("not even a protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, 400),
        ("a tunnel", head(server, "CONNECT example.com:443"), 400),
        ("a path in another alphabet", head(server, "GET /v1/\xe9"), 400),
        ("10,000 lines", head(server, "GET /v1/agents", *many), 431),
        ("a long line", head(server, "GET /v1/agents", f"x: {'y' * huge}"), 431),
        ("a long name", head(server, "GET /v1/agents", f"{'y' * huge}: x"), 431),
        ("a long path", head(server, f"GET /{'y' * huge}"), 431),
        ("a head of 5 MB", head(server, "GET /v1/agents", f"x: {'y' * 5_000_000}"), 431),
    ):
        got = ask(server, raw)
        assert [seen for seen, _ in got] == [status], name
        assert json.loads(got[0][1])["error"]["type"] == "invalid_request_error", name
    fine = [f"x-{number}: 1" for number in range(HTTP_HEADERS_MAX - 4)]
    raw = head(server, "GET /v1/agents", *fine, "connection: close")
    assert [status for status, _ in ask(server, raw)] == [200]


def test_headers_behind_the_body_count_for_nothing(server: Server) -> None:
    """Or a proxy that looked at the head would have been deceived."""
    end = b"0\r\nidempotency-key: hidden\r\nx-api-key: corral_wrong\r\n\r\n"
    body = chunked(AGENT).replace(b"0\r\n\r\n", end)
    raw = head(server, "POST /v1/agents", "transfer-encoding: chunked", "connection: close") + body
    made = {json.loads(body)["id"] for _ in range(2) for status, body in ask(server, raw)}
    assert len(made) == 2


def test_a_wish_for_another_protocol_is_passed_over(server: Server) -> None:
    """Java's own client has one with every request."""
    wish = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAB")
    for raw in (
        post(server, AGENT, *wish),
        head(server, "POST /v1/agents", "transfer-encoding: chunked", *wish) + chunked(AGENT),
    ):
        then = head(server, "GET /v1/agents?limit=1", "connection: close")
        (first, body), (second, _) = ask(server, raw + then)
        assert (first, second) == (200, 200) and json.loads(body)["name"] == "a"


def test_requests_in_a_row_are_answered_in_order(server: Server) -> None:
    row = [
        post(server, b'{"name":"%d","model":"replay"}' % number)
        if number % 3
        else head(server, "GET /v1/x")
        for number in range(60)
    ]
    end = head(server, "GET /v1/agents?limit=1", "connection: close")
    got = ask(server, b"".join([*row, end]))
    assert [status for status, _ in got] == [200 if number % 3 else 404 for number in range(60)] + [200]
    assert [json.loads(body)["name"] for status, body in got[:-1] if status == 200] == [
        str(number) for number in range(60) if number % 3
    ]


@pytest.mark.parametrize("garbage", [b"\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 300_000])
def test_garbage_behind_a_request_takes_nothing_from_it(server: Server, garbage: bytes) -> None:
    assert [status for status, _ in ask(server, post(server) + garbage)][:1] == [200]


REQUEST = (
    b"POST /v1/agents?beta=true HTTP/1.1\r\nhost: localhost\r\ncontent-length: 29\r\nexpect: 100-continue"
)
REQUEST += b"\r\ncontent-type: application/json\r\nx-api-key: KEY\r\n\r\n" + AGENT


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with pieces of it gone, doubled, replaced or moved."""
    raw = bytearray(REQUEST)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw) - 1))
        size = draw(st.integers(1, 12))
        match draw(st.sampled_from(["gone", "doubled", "replaced", "moved"])):
            case "gone":
                del raw[at : at + size]
            case "doubled":
                raw[at:at] = raw[at : at + size]
            case "replaced":
                raw[at : at + size] = draw(st.binary(min_size=1, max_size=8))
            case _:
                piece = bytes(raw[at : at + size])
                del raw[at : at + size]
                raw[draw(st.integers(0, len(raw))) : 0] = piece
        raw = raw or bytearray(REQUEST)
    return bytes(raw)


def all_that_comes(server: Server, connections: list[socket.socket]) -> list[bytes]:
    """What each of them receives, until all have ended or have nothing more to say: not for a moment, and
    not while others are answered, which on a busy machine takes longer than a moment."""
    received = dict.fromkeys(connections, b"")
    waiting = set(connections)
    while waiting:
        ready = select.select(list(waiting), [], [], 0.3)[0]
        if not ready:
            ask(server, post(server, AGENT, "connection: close"))
            ready = select.select(list(waiting), [], [], 0)[0]
        if not ready:
            break
        for connection in ready:
            try:
                more = connection.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            received[connection] += more
            if not more:
                waiting.remove(connection)
    return list(received.values())


def test_damaged_requests_are_answered_or_cut_off(server: Server) -> None:
    seen: Counter[int] = Counter()

    @given(st.lists(damaged(), min_size=20, max_size=20))
    @settings(
        max_examples=12,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(batch: list[bytes]) -> None:
        with ExitStack() as stack:
            connections = [stack.enter_context(connect(server)) for _ in batch]
            for connection, raw in zip(connections, batch, strict=True):
                connection.sendall(raw.replace(b"KEY", server.key.encode()))
            for raw, received in zip(batch, all_that_comes(server, connections), strict=True):
                received = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
                found = [status for status, _ in answers(received)]
                seen.update(found)
                assert all(status < 500 for status in found), (raw, found)

    check()
    print(f"damaged requests: {dict(sorted(seen.items()))}")
    assert {200, 400, 401, 403, 404} <= set(seen)
