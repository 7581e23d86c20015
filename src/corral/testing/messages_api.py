"""A fake Messages API: a real HTTP server on a real socket, speaking the real event stream.

    script = [Reply.tools(("toolu_1", "bash", {"command": "ls"})), Reply.text("Done.")]
    async with MessagesApi(script) as api:
        ...                             # point a client (or Corral) at api.url
        request = await api.request(1)  # waits until the first request has arrived
        assert request.json["model"] == "claude-sonnet-5-5"

A script is a list of answers, given out in order of arrival, or a function from the request to its answer
(`by_turn`: the n-th reply of a conversation, whoever asks first). `Reply` can drip, hang, break off after
any byte or fail in mid-stream; `HttpError` is any documented error. Requests are recorded with the time
they arrived, and say whether the client left before its answer was complete.

    python -m corral.testing.messages_api --port 8421 --text "Hello."

serves the same reply to everybody, as fast as it can. It is also the upstream of the benchmarks: a plain
reply is two writes of bytes encoded beforehand, from an asyncio protocol without a web framework.

Nothing here imitates a model's judgement, and no request leaves the machine.
"""

import argparse
import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import httptools

from corral.session.content import Json
from corral.testing.messages_reply import Answer, Counted, HttpError, Reply
from corral.testing.messages_rules import broken_rule
from corral.testing.messages_window import Window

_COUNT_PATH = "/v1/messages/count_tokens"
BYTES_PER_TOKEN = 4  # of a body whose tokens are counted
REQUESTS_KEPT_MAX = 2_000  # recorded requests with their bodies; benchmarks forget the older ones


@dataclass(eq=False, kw_only=True)
class Request:
    """A request as it arrived. `number` counts from 1; `arrived_at` is `time.monotonic()`.

    `closed` is set when the answer is complete or the client has left; `is_aborted` tells which.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived_at: float
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    is_aborted: bool = False

    @cached_property
    def json(self) -> Json:
        return json.loads(self.body)

    @property
    def api_key(self) -> str | None:
        """The key it came with, as `x-api-key` or, since SDK 2, as a bearer token."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or bearer or None

    @property
    def turns(self) -> int:
        """How many assistant turns the conversation already has."""
        return sum(message["role"] == "assistant" for message in self.json["messages"])


Script = Sequence[Answer] | Callable[[Request], Answer]


def by_turn(replies: Sequence[Answer]) -> Callable[[Request], Answer]:
    """A script for many conversations at once: each gets the replies from the first one on."""

    def script(request: Request) -> Answer:
        if request.turns < len(replies):
            return replies[request.turns]
        return _exhausted(len(replies))

    return script


def _exhausted(count: int) -> HttpError:
    return HttpError(status=400, message=f"the script of this fake Messages API has only {count} replies")


class MessagesApi:
    """The server. Use it as an async context manager, or call `start` and `aclose`.

    api_key:   when given, a request with another key is answered 401.
    is_strict: refuse a request that the real API would refuse (`messages_rules`), with its words.
    window:    refuses what is longer, and counts the usage of every reply.
    requests_kept_max: of the latest ones, `requests` and `request` know; a long run needs none of them.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        is_strict: bool = True,
        window: Window | None = None,
        requests_kept_max: int = REQUESTS_KEPT_MAX,
    ) -> None:
        self.script = script
        self.requests: deque[Request] = deque(maxlen=requests_kept_max)
        self.count = 0
        self.api_key = api_key
        self.is_strict = is_strict
        self.window = window
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.connections: set[_Connection] = set()
        self.accepted = 0  # connections so far: a client that reuses them makes few

    async def __aenter__(self) -> "MessagesApi":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self._host, self._port, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Drop every connection and stop. Repeat: safe."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    @property
    def url(self) -> str:
        """The base URL to give to a client."""
        return f"http://{self._host}:{self._port}"

    async def request(self, number: int, *, timeout_seconds: float = 60.0) -> Request:
        """The request with this number (from 1), waiting for it. Raises TimeoutError."""
        if self.count < number:
            arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((number, arrival))
            await asyncio.wait_for(arrival, timeout_seconds)
        return self.requests[number - 1 - (self.count - len(self.requests))]

    def answer(self, request: Request) -> Answer:
        """Record the request and choose its answer."""
        self.count += 1
        self.requests.append(request)
        for number, arrival in self._waiting:
            if number <= self.count and not arrival.done():
                arrival.set_result(None)
        self._waiting = [(n, arrival) for n, arrival in self._waiting if not arrival.done()]
        path = request.path.partition("?")[0]
        if path not in ("/v1/messages", _COUNT_PATH) or request.method != "POST":
            return HttpError(status=404, message=f"no such endpoint: {request.method} {request.path}")
        if self.api_key is not None and request.api_key != self.api_key:
            return HttpError(status=401)
        if path == _COUNT_PATH:
            return Counted(input_tokens=len(request.body) // BYTES_PER_TOKEN)
        if self.is_strict and (broken := broken_rule(request.json)) is not None:
            return HttpError(status=400, message=broken)
        if self.window is None:
            return self._scripted(request)
        too_long = self.window.refusal(request.json)
        return too_long or self.window.counted(request.json, self._scripted(request))

    def _scripted(self, request: Request) -> Answer:
        if callable(self.script):
            return self.script(request)
        if request.number <= len(self.script):
            return self.script[request.number - 1]
        return _exhausted(len(self.script))


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, keep-alive, one request at a time."""

    def __init__(self, api: MessagesApi) -> None:
        self._api = api
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._request: Request | None = None
        self._sending: asyncio.Task[None] | None = None

    # -- asyncio ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._api.connections.add(self)
        self._api.accepted += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._api.connections.discard(self)
        if self._sending is not None:
            self._sending.cancel()
        if self._request is not None:
            self._finish(is_aborted=True)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- httptools -------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        if name.lower() == b"expect":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._request = request = Request(
            number=self._api.count + 1,
            method=self._parser.get_method().decode(),
            path=self._url.decode(),
            headers=self._headers,
            body=b"".join(self._body),
            arrived_at=time.monotonic(),
        )
        answer = self._api.answer(request)
        if isinstance(answer, HttpError):
            self._send_error(answer, request)
        elif isinstance(answer, Counted) or (
            b'"stream":true' not in request.body and not request.json.get("stream")
        ):
            self._send(200, "application/json", request, {}, answer.message)
        elif answer.is_plain:
            chunk = answer.stream
            self._write(_stream_head(request), b"%x\r\n" % len(chunk), chunk, b"\r\n0\r\n\r\n")
            self._finish()
        else:
            self._sending = asyncio.get_running_loop().create_task(self._send_slowly(answer, request))

    # -- answers ---------------------------------------------------------------------------------
    def _write(self, *parts: bytes) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(parts))

    def _finish(self, *, is_aborted: bool = False) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.is_aborted = is_aborted
            request.closed.set()

    def _send(
        self, status: int, content_type: str, request: Request, headers: dict[str, str], body: bytes
    ) -> None:
        lines = [
            f"HTTP/1.1 {status} Fake",
            f"content-type: {content_type}",
            f"content-length: {len(body)}",
            f"request-id: {_request_id(request)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._write("\r\n".join(lines).encode("latin-1"), b"\r\n\r\n", body)
        self._finish()

    def _send_error(self, error: HttpError, request: Request) -> None:
        body = error.body(_request_id(request))
        content_type = "application/json" if error.raw_body is None else "text/html"
        self._send(error.status, content_type, request, dict(error.headers), body)

    async def _send_slowly(self, reply: Reply, request: Request) -> None:
        await asyncio.sleep(reply.first_seconds)
        if reply.held_until is not None:
            await reply.held_until.wait()
        self._write(_stream_head(request))
        stream = reply.stream
        end = len(stream)
        for bound in (reply.cut_after_bytes, reply.hang_after_bytes):
            end = end if bound is None else min(end, bound)
        step = reply.drip_bytes or max(end, 1)
        for at in range(0, end, step):
            if at and reply.drip_seconds:
                await asyncio.sleep(reply.drip_seconds)
            chunk = stream[at : min(at + step, end)]
            self._write(b"%x\r\n" % len(chunk), chunk, b"\r\n")
            await asyncio.sleep(0)
        if reply.hang_after_bytes is not None:
            await asyncio.Event().wait()  # until the client leaves and this task is cancelled
        self._sending = None
        if reply.cut_after_bytes is not None and reply.cut == "reset":
            self._finish()
            assert self._transport is not None
            self._transport.close()  # what was written is flushed; the body stays unfinished
            return
        self._write(b"0\r\n\r\n")
        self._finish()


def _request_id(request: Request) -> str:
    return f"req_fake{request.number:08d}"


def _stream_head(request: Request) -> bytes:
    return (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
        f"request-id: {_request_id(request)}\r\ntransfer-encoding: chunked\r\n\r\n"
    ).encode()


def _answer(item: dict[str, Any]) -> Answer:
    return HttpError(**item) if "status" in item else Reply(**item)


async def _serve(arguments: argparse.Namespace) -> None:
    if arguments.script is None:
        reply = Reply(
            content=Reply.text(arguments.text).content, first_seconds=arguments.first_token_seconds
        )
        script: Script = lambda _: reply  # noqa: E731 -- one object for everybody: encoded once
    else:
        script = by_turn([_answer(item) for item in json.loads(arguments.script.read_text())])
    async with MessagesApi(script, port=arguments.port, is_strict=arguments.script is not None) as api:
        print(api.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until killed; the first line of output is the base URL."""
    parser = argparse.ArgumentParser(
        prog="corral.testing.messages_api", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--text", default="Done.", help="the reply to every request")
    parser.add_argument("--first-token-seconds", type=float, default=0.0)
    parser.add_argument("--script", type=Path, help="JSON list of replies, played per conversation")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(arguments))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
