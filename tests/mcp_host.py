"""MCP servers on this machine: the official SDK's over HTTP, in a process of its own, and a liar.

As a script, `python -m tests.mcp_host KIND DIRECTORY PORT` is one; it prints its port. What was
called is a line each in DIRECTORY/calls. KIND: modern (the newest protocol), legacy (a handshake, with a
connection that the server remembers), stateless (a handshake that it forgets), json (answers are no
streams), sse (the old transport), many (300 tools), locked (asks for a token), oauth (over TLS: takes the
tokens in DIRECTORY/tokens, one a line, by the SDK's own means), liar (no
SDK: says what DIRECTORY/lies.json tells it).
"""

import asyncio
import base64
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.testing.certificates import certificates

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 20).decode()
TOKEN = "canary-mcp-token"


@dataclass(kw_only=True, slots=True)
class McpHost:
    """port: of 127.0.0.1. authority: of its certificate, if it has TLS."""

    kind: str
    directory: Path
    authority: Path | None = None
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    @contextmanager
    def start(cls, kind: str, directory: Path) -> "Iterator[McpHost]":
        directory.mkdir(parents=True, exist_ok=True)
        host = cls(kind=kind, directory=directory)
        if kind == "oauth":
            host.authority = certificates(directory)[0]
            host.allow()
        host.begin()
        try:
            yield host
        finally:
            host.die()

    def begin(self) -> None:
        """Start, on the port that it had before if it had one."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mcp_host", self.kind, str(self.directory), str(self.port)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        assert ready, "the MCP server did not start"
        self.port = int(self.process.stdout.readline())

    def die(self) -> None:
        """As if killed by -9. Repeat: safe."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    @property
    def where(self) -> str:
        """As an entry of the setting mcp_private_hosts."""
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        scheme = "https" if self.authority else "http"
        return f"{scheme}://localhost:{self.port}/{'sse' if self.kind == 'sse' else 'mcp'}"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What reached a tool, in order."""
        path = self.directory / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def listings(self) -> int:
        """How often it was asked for its tools, by the newer protocol."""
        path = self.directory / "listings"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def allow(self, *tokens: str) -> None:
        """Take these from now on, and no others."""
        draft = self.directory / "tokens.new"
        draft.write_text("\n".join(tokens))
        draft.rename(self.directory / "tokens")

    def release(self) -> None:
        """Let `hold` go on."""
        (self.directory / "go").touch()

    async def called(self, number: int, *, seconds: float = 60.0) -> None:
        """Until so many calls have come."""
        async with asyncio.timeout(seconds):
            while len(self.calls) < number:  # noqa: ASYNC110  # it is another process
                await asyncio.sleep(0.01)

    def lie(self, **lies: Any) -> None:
        """What the liar says from now on, by method: a result; or `{"raw": text}`, all of its answer."""
        (self.directory / "lies.json").write_text(json.dumps(lies))


def _server(kind: str, directory: Path) -> Any:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp_types import (
        AudioContent,
        CallToolResult,
        EmbeddedResource,
        ImageContent,
        TextContent,
        TextResourceContents,
    )
    from pydantic import BaseModel

    server = MCPServer("test", log_level="CRITICAL", **_authorization(kind, directory))

    def note(name: str, **fields: Any) -> None:
        with (directory / "calls").open("a") as file:
            file.write(json.dumps({"name": name, **fields}) + "\n")

    class Point(BaseModel):
        x: int
        y: int

    @server.tool()
    async def echo(text: str) -> str:
        """Say it again."""
        note("echo", text=text)
        return text

    @server.tool(structured_output=True)
    async def move(point: Point, by: int = 1) -> Point:
        note("move", x=point.x)
        return Point(x=point.x + by, y=point.y)

    @server.tool()
    async def show() -> list[Any]:
        note("show")
        return [
            TextContent(type="text", text="a picture\x1b[31m:"),
            ImageContent(type="image", data=PNG, mime_type="image/png"),
            AudioContent(type="audio", data="AAAA", mime_type="audio/wav"),
            EmbeddedResource(
                type="resource", resource=TextResourceContents(uri="file:///notes.txt", text="the notes")
            ),
        ]

    @server.tool()
    async def long(characters: int) -> str:
        note("long")
        return "x" * characters

    @server.tool()
    async def fail() -> str:
        note("fail")
        raise ValueError("it went wrong")

    @server.tool()
    async def hold(context: Context, progress: bool = False) -> str:
        """Until it is released."""
        note("hold")
        try:
            for step in range(100_000):
                if (directory / "go").exists():
                    break
                if progress:
                    await context.report_progress(step)
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note("cancelled")
            raise
        return "released"

    @server.tool()
    async def die() -> str:
        note("die")
        os._exit(1)

    async def bash(command: str) -> str:
        note("bash", command=command)
        return "not a shell"

    async def grown() -> str:
        return "grown"

    @server.tool()
    async def change(context: Context, add: str = "", remove: str = "", times: int = 1) -> str:
        """Have one more tool, or one less, and say so to everybody, so many times."""
        note("change")
        if add:
            server.add_tool(grown, name=add)
        if remove:
            server.remove_tool(remove)
        for _ in range(times):
            await context.notify_tools_changed()  # of the newer protocol
            await context.session.send_tool_list_changed()  # of the older
        return "changed"

    @server.tool()
    async def measure() -> CallToolResult:
        note("measure")
        said = TextContent(type="text", text="It is warm.")
        return CallToolResult(content=[said], structured_content={"degrees": 21})

    server.add_tool(bash, name="bash")
    server.add_tool(echo, name="odd name.with/signs")
    if kind == "many":
        for number in range(300):
            server.add_tool(grown, name=f"tool_{number:03}", description=f"The tool number {number}.")
    return server


def _authorization(kind: str, directory: Path) -> dict[str, Any]:
    if kind != "oauth":
        return {}
    from mcp.server.auth.provider import AccessToken
    from mcp.server.auth.settings import AuthSettings

    class Verifier:
        async def verify_token(self, token: str) -> AccessToken | None:
            with (directory / "seen").open("a") as file:
                file.write(f"{token}\n")
            if token not in (directory / "tokens").read_text().splitlines():
                return None
            return AccessToken(token=token, client_id="client", scopes=[])

    settings = AuthSettings(
        issuer_url="https://localhost", resource_server_url=None, validate_token_resource=False
    )
    return {"auth": settings, "token_verifier": Verifier()}


def _app(kind: str, directory: Path) -> Any:
    if kind == "liar":
        return _liar(directory)
    server = _server(kind, directory)
    if kind == "sse":
        return server.sse_app()
    app = server.streamable_http_app(stateless_http=kind == "stateless", json_response=kind == "json")

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope.get("headers", ())}
        status = None
        if headers.get("mcp-method") == "tools/list":
            with (directory / "listings").open("a") as file:
                file.write("tools/list\n")
        if kind == "locked" and headers.get("authorization") != f"Bearer {TOKEN}":
            status = 401
        elif kind in ("legacy", "stateless") and headers.get("mcp-method") == "server/discover":
            status = 404
        if scope["type"] != "http" or status is None:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return wrapped


def _liar(directory: Path) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body or b"{}")
        method = asked.get("method", scope["method"])
        lies = json.loads((directory / "lies.json").read_text())
        if method == "tools/call":
            with (directory / "calls").open("a") as file:
                file.write(json.dumps(asked["params"]) + "\n")
        honest = {
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "liar", "version": "1"},
            }
        }
        said = lies.get(method, honest.get(method))
        status, type_ = (404, b"text/plain") if said is None else (200, b"application/json")
        if isinstance(said, dict) and "raw" in said:
            answer = said["raw"].encode()
            status, type_ = said.get("status", 200), said.get("type", "application/json").encode()
        else:
            number = asked.get("id") if "id" not in lies else lies["id"]
            answer = json.dumps({"jsonrpc": "2.0", "id": number, "result": said}).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", type_)]})
        for _ in range(said.get("times", 1) if isinstance(said, dict) else 1):
            await send({"type": "http.response.body", "body": answer, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def main() -> None:
    import socket

    import uvicorn

    kind, directory, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    app = _app(kind, directory)  # imports for seconds: who is told the port expects to be heard
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    tls = {}
    if kind == "oauth":
        tls = {"ssl_certfile": directory / "host.pem", "ssl_keyfile": directory / "host.key"}
    config = uvicorn.Config(app, log_level="critical", lifespan="auto", **tls)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
