"""An egress process in a test, and doors that are brought to it as a hands host brings them."""

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import ssl
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.app.credentials import CredentialDuty
from corral.catalog.credentials import place_of, placeholder_of
from corral.catalog.hosts import Errand, HostList
from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.vaults import SealedCredential, SealedSecret, SessionCredentialStore
from corral.daemon import socket_path, token_path
from corral.egress.policy import OperatorHosts
from corral.egress.process import KEY_FILE, serve_egress
from corral.hands.way_out import Egress, WayOut
from corral.kernel.ids import DEFAULT_WORKSPACE, ResourceId, SessionId
from corral.session.call import Mount, Recipe
from corral.vault.seal import seal

SECONDS = 60.0
UNRESTRICTED = {"type": "unrestricted"}


def limited(*hosts: str, **more: bool) -> dict[str, object]:
    return {"type": "limited", "allowed_hosts": list(hosts), **more}


@dataclass(kw_only=True)
class Gateway:
    """names: what resolves, and to which addresses; else only addresses do, in any notation.
    resolved: what was asked for, in order."""

    data_dir: Path
    names: dict[str, list[str]]
    operator: OperatorHosts
    resolved: list[str] = field(default_factory=list)
    authorities: Path | None = None
    serving: "asyncio.Task[None] | None" = None
    ways_out: list[WayOut] = field(default_factory=list)
    trusted: Path | None = None
    sealed: dict[str, list[SealedCredential]] = field(default_factory=dict)  # what sessions have
    store: SessionCredentialStore | None = None
    repository_tokens: dict[str, dict[str, SealedToken]] = field(default_factory=dict)  # by session and URL
    giving: "asyncio.Task[None] | None" = None
    book: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        *,
        names: Mapping[str, Sequence[str]],
        operator: OperatorHosts | None = None,
        authorities: Path | None = None,
        trusted: Path | None = None,
        store: SessionCredentialStore | None = None,
    ) -> "AsyncIterator[Gateway]":
        """trusted: authorities of hosts with credentials. store: what sessions have; `sealed` otherwise."""
        data_dir = Path(tempfile.mkdtemp(prefix="corral-"))  # a socket's path is short
        gateway = cls(
            data_dir=data_dir,
            names={name: list(found) for name, found in names.items()},
            operator=operator or OperatorHosts(internal=("*",)),
            authorities=authorities,
            trusted=trusted,
            store=store,
        )
        await gateway.serve()
        try:
            yield gateway
        finally:
            for way_out in gateway.ways_out:
                await way_out.close()
            await gateway.end()
            shutil.rmtree(data_dir)

    async def serve(self) -> None:
        ready = asyncio.Event()
        self.serving = asyncio.ensure_future(
            serve_egress(
                data_dir=self.data_dir,
                operator=self.operator,
                authorities=self.authorities,
                resolve=self._resolve,
                trusted=[self.trusted] if self.trusted is not None else [],
                on_ready=ready.set,
            )
        )
        await asyncio.wait_for(ready.wait(), SECONDS)
        self.giving = asyncio.ensure_future(CredentialDuty(self.data_dir, self.store or self).run())

    def open(self, errand: Errand, hosts: HostList) -> None:
        """From now on these are reached on it. operator: with a dict of errands."""
        assert isinstance(self.operator.errands, dict)
        self.operator.errands[errand] = hosts

    async def end(self) -> None:
        assert self.serving and self.giving
        self.giving.cancel()
        self.serving.cancel()
        await asyncio.wait([self.serving, self.giving], timeout=SECONDS)

    async def of_session(self, session_id: SessionId) -> Sequence[SealedCredential]:
        """`catalog.vaults.SessionCredentialStore`, without a database."""
        return self.sealed.get(session_id, [])

    async def gives(self, session_id: str, name: str, secret: str, **auth: object) -> str:
        """From now on the session has this variable; returns its placeholder."""
        key = (await self.ask("vault/newer", {"current": None}))["key"]
        made = sealed_variable(name, key, secret, **auth)
        others = [
            each for each in self.sealed.get(session_id, []) if each.record["id"] != made.record["id"]
        ]
        self.sealed[session_id] = [*others, made]
        return placeholder_of(SessionId(session_id), name)

    async def tokens_of_session(self, session_id: SessionId) -> Sequence[SealedToken]:
        return list(self.repository_tokens.get(session_id, {}).values())

    async def gives_token(self, session_id: str, url: str, token: str) -> None:
        """From now on the session has this repository, and this token for it."""
        key = (await self.ask("vault/newer", {"current": None}))["key"]
        tokens = self.repository_tokens.setdefault(session_id, {})
        place = TokenPlace(
            workspace_id=DEFAULT_WORKSPACE,
            resource_id=ResourceId(f"sesrsc_{[*tokens, url].index(url)}"),
            url=url,
        )
        sealed = seal(token.encode(), public_key=b64decode(key["public_key"]), place=place.encode())
        tokens[url] = SealedToken(place=place, key_id=key["id"], sealed=sealed)

    async def authority(self, session_id: str) -> Path:
        """The file of what the session's sandbox trusts, beside this machine's authorities."""
        file = self.data_dir / f"{session_id}.pem"
        answer = await self.ask("authority/certificate", {"session_id": session_id})
        file.write_text(answer["certificate"])
        return file

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        if host in self.names:
            return self.names[host]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [str(address[0]) for *_, address in found]

    @property
    def key_file(self) -> Path:
        """The vault's private keys."""
        return self.data_dir / "egress" / "private" / KEY_FILE

    @property
    def tokens(self) -> Path:
        """Where what is refreshed waits for the store."""
        return self.key_file.with_name("tokens")

    def door(
        self,
        networking: Mapping[str, object] = UNRESTRICTED,
        *,
        session_id: str = "sesn_1",
        variables: Mapping[str, str] | None = None,
        mounts: Sequence[Mount] = (),
        mcp_endpoints: Sequence[tuple[str, int]] = (),
    ) -> int:
        """The port of a new sandbox's proxy, at our loopback instead of its own."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        listening.setblocking(False)
        way_out = WayOut(listening, Egress(self.data_dir))
        environment = {"type": "cloud", "networking": dict(networking)}
        recipe = Recipe(
            environment=environment,
            variables=variables or {},
            mounts=tuple(mounts),
            mcp_endpoints=tuple(mcp_endpoints),
        )
        way_out.open(session_id, recipe)
        self.ways_out.append(way_out)
        return int(listening.getsockname()[1])

    async def ask(self, what: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(socket_path(self.data_dir, "egress"))
        data = json.dumps(body or {}).encode()
        token = token_path(self.data_dir, "egress").read_text()
        writer.write(
            f"POST /corral/egress/v1/{what} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        answer = await asyncio.wait_for(reader.read(), SECONDS)
        writer.close()
        await writer.wait_closed()
        return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))

    async def entries(self) -> list[dict[str, Any]]:
        """What the audit has: each entry, with how it ended."""
        while (page := await self.ask("audit/read"))["lines"]:
            for line in page["lines"]:
                said = line.get("begin") or line["end"]
                self.book.setdefault(said["entry_id"], {}).update(said)
            await self.ask("audit/forget", {"position": page["position"]})
        return list(self.book.values())

    async def ended(self) -> list[dict[str, Any]]:
        """`entries`, once everything that was allowed has ended."""

        async def is_over() -> bool:
            return all(
                "seconds" in entry or entry["decision"] == "denied" for entry in await self.entries()
            )

        await until(is_over)
        return list(self.book.values())


def sealed_variable(name: str, key: Mapping[str, str], secret: str, **auth: object) -> SealedCredential:
    """key: as the egress process tells of it."""
    auth = {"networking": UNRESTRICTED, "injection_location": {"header": True, "body": True}, **auth}
    record = {
        "id": f"vcrd_{name}",
        "vault_id": "vlt_1",
        "updated_at": "2026-01-01T00:00:00Z",
        "auth": {"type": "environment_variable", "secret_name": name, **auth},
    }
    place = place_of(record, "secret_value", workspace_id=DEFAULT_WORKSPACE).encode()
    sealed = SealedSecret(
        name="secret_value",
        key_id=key["id"],
        sealed=seal(secret.encode(), public_key=b64decode(key["public_key"]), place=place),
    )
    return SealedCredential(workspace_id=DEFAULT_WORKSPACE, record=record, secrets=[sealed])


async def through(
    port: int, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str, bytes]:
    """One request as a program sends it to its proxy: status, reason, body."""

    def ask() -> tuple[int, str, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as client:
            client.request(method, url, body, dict(headers or {}))
            response = client.getresponse()
            return response.status, response.reason, response.read()

    return await asyncio.to_thread(ask)


async def through_tls(
    port: int,
    host: str,
    far_port: int,
    path: str,
    *,
    authority: Path,
    server_name: str | None = None,
    status: int | None = 200,
) -> bytes:
    """GET through CONNECT. status: None for any. Raises OSError with what the proxy, or the host, said."""
    answered, _, body = await answered_through_tls(
        port, host, far_port, path, authority=authority, server_name=server_name
    )
    assert status in (None, answered)
    return body


async def answered_through_tls(
    port: int,
    host: str,
    far_port: int,
    path: str,
    *,
    authority: Path,
    server_name: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """GET through CONNECT: status, headers, body. Raises as `through_tls`."""

    def ask() -> tuple[int, dict[str, str], bytes]:
        context = ssl.create_default_context(cafile=str(authority))
        context.check_hostname = server_name is None
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        with contextlib.closing(client):
            client.set_tunnel(host, far_port)
            client.connect()
            client.sock = context.wrap_socket(client.sock, server_hostname=server_name or host)
            client.request("GET", path, headers=dict(headers or {}))
            response = client.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    return await asyncio.to_thread(ask)


async def said_to(port: int, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), SECONDS)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await is_so():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.01)
