"""The hands host over HTTP: one request is one call of the port. `client.py` is the other end.

A long execute is a long request. On the unix socket whoever asks must know the token and be let in by the
socket's mode. Over TCP the proof is the client's certificate: TLS has checked it before a request is read.
"""

import asyncio
import hmac
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import TypeVar

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from corral import __version__
from corral.hands import wire
from corral.hands.host import HandsHost
from corral.hands.rpc_trees import tree_routes
from corral.kernel.errors import CorralError, InvalidRequest, RequestTooLarge, WorldError
from corral.kernel.ids import REQUEST, Ids, SessionId
from corral.kernel.limits import HANDS_HEARTBEAT_SECONDS, TOOL_INPUT_BYTES_MAX
from corral.session.call import NeverStarted
from corral.session.content import Json

__all__ = ["Adoption", "app"]

_log = logging.getLogger(__name__)
_session, _epoch = wire.decode_session_id, wire.decode_epoch
_BODY_BYTES_MAX = TOOL_INPUT_BYTES_MAX + 1024 * 1024  # the largest input, and the call around it

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


class Adoption:
    """Whether a supervisor holds this host: true while at least one adopting connection is open."""

    def __init__(self) -> None:
        self._holders = 0
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def is_adopted(self) -> bool:
        return self._holders > 0

    async def hold(self, first: bytes) -> AsyncIterator[bytes]:
        """The body of an adopting connection: `first`, then heartbeats until the host ends."""
        self._holders += 1
        self._changed.set()
        try:
            yield first
            while not self._ended.is_set():
                try:
                    await asyncio.wait_for(self._ended.wait(), HANDS_HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield b"\n"
        finally:
            self._holders -= 1
            self._changed.set()

    async def lost_for(self, seconds: float) -> None:
        """Return once nobody has held the host for this long."""
        while True:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), None if self._holders else seconds)
            except TimeoutError:
                return

    def end(self) -> None:
        """Let go of every holder: the host stops."""
        self._ended.set()


def app(host: HandsHost, *, token: str | None, adoption: Adoption) -> Starlette:
    """token: what callers present; None where TLS has let in only nodes of this cluster."""

    async def identity() -> dict[str, Json]:
        return {"protocol": wire.VERSION, **asdict(await host.placement(SessionId("")))}

    async def execute(request: Request) -> Response:
        (call, epoch), placed_at = await _read(
            request, lambda body: (wire.decode_call(body), wire.decode_placed_at(body))
        )
        return _json(await host.execute_encoded(call, epoch=epoch, placed_at=placed_at))

    async def attach(request: Request) -> Response:
        (call, epoch), forbids = await _read(
            request, lambda body: (wire.decode_call(body), body.get("forbids") is True)
        )
        return _json(await host.attach_encoded(call, epoch=epoch, forbids=forbids))

    async def announce(request: Request) -> Response:
        session_id, epoch = await _read(request, lambda body: (_session(body), _epoch(body)))
        await host.announce(session_id, epoch=epoch)
        return _json(orjson.dumps(await identity()))

    async def provision(request: Request) -> Response:
        session_id, epoch, recipe = await _read(
            request, lambda body: (_session(body), _epoch(body), wire.decode_recipe(body["recipe"]))
        )
        await host.provision(session_id, epoch=epoch, recipe=recipe)
        return _json(b"{}")

    async def missing(request: Request) -> Response:
        session_id, epoch, recipe = await _read(
            request, lambda body: (_session(body), _epoch(body), wire.decode_recipe(body["recipe"]))
        )
        missing = await host.missing(session_id, epoch=epoch, mounts=recipe.mounts)
        return _json(orjson.dumps({"missing": missing}))

    async def list_tools(request: Request) -> Response:
        session_id, epoch, servers, only_changed = await _read(
            request,
            lambda body: (
                _session(body),
                _epoch(body),
                wire.decode_servers(body),
                body.get("only_changed") is True,
            ),
        )
        listings = await host.list_tools(session_id, servers, epoch=epoch, only_changed=only_changed)
        return _json(wire.encode_listings(listings, servers))

    async def put_mount(request: Request) -> Response:
        try:
            said = orjson.loads(request.query_params["put"])
            mount, epoch = wire.decode_mount(said["mount"]), _epoch(said)
            placed_at = wire.decode_placed_at(said)
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(error) from error
        session_id = SessionId(request.path_params["session_id"])
        archive = request.stream()
        await host.held.put_mount(session_id, mount, archive, epoch=epoch, placed_at=placed_at)
        async for _ in archive:  # of one that was there already
            pass
        return _json(b"{}")

    async def cancel(request: Request) -> Response:
        session_id, epoch, call_ids = await _read(
            request, lambda body: (_session(body), _epoch(body), wire.decode_call_ids(body))
        )
        await host.cancel(session_id, epoch=epoch, call_ids=call_ids)
        return _json(b"{}")

    async def settle(request: Request) -> Response:
        session_id, call_ids = await _read(
            request, lambda body: (_session(body), wire.decode_call_ids(body))
        )
        await host.settle(session_id, call_ids=call_ids)
        return _json(b"{}")

    async def release(request: Request) -> Response:
        session_id, delete_workspace = await _read(
            request, lambda body: (_session(body), body["delete_workspace"] is True)
        )
        await host.release(session_id, delete_workspace=delete_workspace)
        return _json(b"{}")

    async def hold(request: Request) -> Response:
        session_id, placed_at = await _read(
            request, lambda body: (_session(body), wire.decode_placed_at(body))
        )
        await host.held.hold(session_id, placed_at=placed_at or 0)
        return _json(orjson.dumps(await identity()))

    async def restore(request: Request) -> Response:
        query = request.query_params
        try:
            placed_at = wire.decode_placed_at({"placed_at": int(query["placed_at"])})
            restored = wire.Restored.decode(
                query["what"], query.get("taken_at", ""), query.get("host_id", "")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(error) from error
        session_id = SessionId(request.path_params["session_id"])
        assert placed_at is not None
        await host.held.restore(session_id, request.stream(), placed_at=placed_at, restored=restored)
        return _json(b"{}")

    async def pack(request: Request) -> Response:
        archive = host.held.pack(SessionId(request.path_params["session_id"]))
        return StreamingResponse(archive, media_type="application/x-tar")

    async def keep(request: Request) -> Response:
        session_id, changes, only_check = await _read(
            request, lambda body: (_session(body), int(body["changes"]), body["only_check"] is True)
        )
        await host.held.keep(session_id, changes=changes, only_check=only_check)
        return _json(b"{}")

    async def evict(request: Request) -> Response:
        session_id, numbers, keeps_files = await _read(
            request,
            lambda body: (
                _session(body),
                {
                    name: None if body[name] is None else int(body[name])
                    for name in ("changes", "placed_at")
                },
                body["keeps_files"] is True,
            ),
        )
        await host.held.evict(session_id, **numbers, keeps_files=keeps_files)
        return _json(b"{}")

    async def drain(request: Request) -> Response:
        await host.drain(is_draining=await _read(request, lambda body: body["is_draining"] is True))
        return _json(b"{}")

    async def held(request: Request) -> Response:
        workspaces = await host.held.all(
            with_disk=request.query_params.get("disk") == "1",
            only_recent=request.query_params.get("recent") == "1",
        )
        return _json(orjson.dumps({"data": [asdict(workspace) for workspace in workspaces]}))

    async def health(request: Request) -> Response:
        state = {
            **await identity(),
            "role": "hands",
            "pid": os.getpid(),
            "version": __version__,
            "is_supervised": adoption.is_adopted,
            **host.facts(),
        }
        return _json(orjson.dumps(state))

    async def probe(request: Request) -> Response:
        return _json(wire.encode_probe(await host.probe()))

    async def sandboxes(request: Request) -> Response:
        return _json(orjson.dumps({"data": [asdict(sandbox) for sandbox in host.sandboxes()]}))

    async def adopt(request: Request) -> Response:
        return StreamingResponse(adoption.hold(orjson.dumps(await identity()) + b"\n"))

    async def import_workspace(request: Request) -> Response:
        await host.held.import_workspace(SessionId(request.path_params["session_id"]), request.stream())
        return _json(b"{}")

    async def export_workspace(request: Request) -> Response:
        archive = host.held.export_workspace(SessionId(request.path_params["session_id"]))
        return StreamingResponse(archive, media_type="application/x-tar")

    routes: list[tuple[str, str, Endpoint]] = [  # scanned in order: the hot ones first
        ("POST", "/execute", execute),
        ("POST", "/hold", hold),
        ("POST", "/settle", settle),
        ("POST", "/announce", announce),
        ("POST", "/attach", attach),
        ("POST", "/provision", provision),
        ("POST", "/missing", missing),
        ("POST", "/cancel", cancel),
        ("POST", "/tools", list_tools),
        ("POST", "/release", release),
        ("GET", "/health", health),
        ("GET", "/probe", probe),
        ("GET", "/sandboxes", sandboxes),
        ("GET", "/workspaces", held),
        ("POST", "/keep", keep),
        ("POST", "/evict", evict),
        ("POST", "/drain", drain),
        ("PUT", "/packed/{session_id}", restore),
        ("GET", "/packed/{session_id}", pack),
        *([("GET", "/adopt", adopt)] if token is not None else []),  # a supervisor is on this machine
        ("PUT", "/workspaces/{session_id}", import_workspace),
        ("GET", "/workspaces/{session_id}", export_workspace),
        ("PUT", "/mounts/{session_id}", put_mount),
        *tree_routes(host),
    ]
    return Starlette(
        routes=[
            Route(wire.PREFIX + path, _guarded(endpoint, token), methods=[method])
            for method, path, endpoint in routes
        ]
    )


def _guarded(endpoint: Endpoint, token: str | None) -> Endpoint:
    """Ask for the token, and answer every error in the form that `wire.decode_error` reads."""
    expected = None if token is None else f"Bearer {token}".encode()

    async def guarded(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if expected is not None and not hmac.compare_digest(given, expected):
            return _json(b'{"error":{"type":"unauthenticated","message":"wrong token"}}', status=401)
        try:
            return await endpoint(request)
        except ClientDisconnect:
            status, body = 499, b""
        except Exception as error:  # the HTTP boundary: our bug, too, told without its details
            status, body = wire.encode_error(error, reference=_logged(error, request.url.path))
        return _json(body, status=status)

    return guarded


def _logged(error: Exception, path: str) -> str:
    """Write what does not cross the wire into the log. Returns what it is found by, "" if all crosses."""
    if isinstance(error, WorldError):
        if error.detail is None:
            return ""
        reference = Ids().mint(REQUEST)
        _log.warning("%s: %s: %s", reference, path, error)
    elif isinstance(error, (CorralError, NeverStarted)):
        return ""
    else:
        reference = Ids().mint(REQUEST)
        _log.error("%s: a request to %s failed", reference, path, exc_info=error)
    return reference


def _json(body: bytes, *, status: int = 200) -> Response:
    return Response(body, status_code=status, media_type="application/json")


async def _read(request: Request, decode: Callable[[dict[str, Json]], T]) -> T:
    """The decoded body. Raises InvalidRequest, RequestTooLarge."""
    chunks, size_bytes = [], 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > _BODY_BYTES_MAX:
            raise RequestTooLarge(f"a tool call has at most {TOOL_INPUT_BYTES_MAX} bytes of input")
        chunks.append(chunk)
    try:
        return decode(orjson.loads(b"".join(chunks)))
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> InvalidRequest:
    """Of a key that is missing the name, which is ours; of anything else not what was in it."""
    what = f"no {error}" if isinstance(error, KeyError) else type(error).__name__
    return InvalidRequest(f"malformed request: {what}")
