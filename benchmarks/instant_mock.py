"""A server that does nothing but repeat one recorded turn at once: what the client alone can reach.

    python -m benchmarks.instant_mock

reads one line, `{"session", "sent", "frames"}` (the bodies that Corral answered with), prints its base URL,
and then serves every session with them until its standard input ends.
"""

import asyncio
import json
import re
import sys
from itertools import count

import httptools

_SESSION = re.compile(r"/v1/sessions/([^/?]+)")


class _Recorded:
    def __init__(self, recording: dict[str, str]) -> None:
        self._session_id: str = json.loads(recording["session"])["id"]
        self._recording = recording
        self._numbers = count()
        self.streams: dict[str, asyncio.WriteTransport] = {}

    def session(self) -> bytes:
        return self._recording["session"].replace(self._session_id, self._next_id()).encode()

    def _next_id(self) -> str:
        number = f"{next(self._numbers):06}"
        return self._session_id[: -len(number)] + number

    @property
    def sent(self) -> bytes:
        return self._recording["sent"].encode()

    @property
    def frames(self) -> bytes:
        return self._recording["frames"].encode()


class _Connection(asyncio.Protocol):
    def __init__(self, recorded: _Recorded) -> None:
        self._recorded = recorded
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        path = self._url.decode().partition("?")[0]
        found = _SESSION.match(path)
        if found is None:
            self._json(self._recorded.session())
        elif path.endswith("/stream"):
            self._recorded.streams[found[1]] = self._transport
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                + _chunk(b": connected\n\n")
            )
        else:
            self._json(self._recorded.sent)
            self._recorded.streams.pop(found[1]).write(_chunk(self._recorded.frames))

    def _json(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve() -> None:
    recorded = _Recorded(json.loads(sys.stdin.readline()))
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Connection(recorded), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # its end: whoever asked is gone


if __name__ == "__main__":
    asyncio.run(_serve())
