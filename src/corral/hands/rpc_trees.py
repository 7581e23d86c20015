"""The part of a hands host's HTTP that is about trees which agents write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from corral.hands import wire
from corral.hands.host import HandsHost
from corral.kernel.errors import InvalidRequest, RequestTooLarge
from corral.kernel.ids import SessionId
from corral.kernel.limits import MEMORY_APPLY_BYTES_MAX, TREE_NOTE_BYTES_MAX
from corral.session.content import Json

__all__ = ["tree_routes"]


def tree_routes(
    host: HandsHost,
) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
    trees = host.workspaces.trees

    async def tree(request: Request) -> Response:
        session_id, place = _named(request)
        note, version = await asyncio.to_thread(
            trees.note, session_id, place
        )  # first: never newer than the tree
        found = await trees.tree(session_id, place)
        news = wire.TreeNews(tree=found, note=note, version=version)
        return Response(await asyncio.to_thread(wire.encode_tree, news), media_type="application/json")

    async def read(request: Request) -> Response:
        session_id, place = _named(request)
        content = trees.read(session_id, place, wire.decode_path(request.query_params.get("path", "")))
        try:
            first = await anext(content)  # an error must come before the status
        except StopAsyncIteration:
            return Response(b"")

        async def whole() -> AsyncIterator[bytes]:
            yield first
            async for chunk in content:
                yield chunk

        return StreamingResponse(whole(), media_type="application/octet-stream")

    async def note(request: Request) -> Response:
        session_id = SessionId(request.path_params["session_id"])
        body = await _body(request, bytes_max=2 * TREE_NOTE_BYTES_MAX)
        try:
            place, note, instead_of = str(body["place"]), dict(body["note"]), int(body["instead_of"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest("malformed request: no note") from error
        trees.keep_note(session_id, place, note, instead_of=instead_of)
        return Response(b"{}", media_type="application/json")

    async def apply(request: Request) -> Response:
        session_id = SessionId(request.path_params["session_id"])
        body = await _body(request, bytes_max=MEMORY_APPLY_BYTES_MAX)
        try:
            place, epoch, placed_at = (
                str(body["place"]),
                wire.decode_epoch(body),
                wire.decode_placed_at(body),
            )
            applied = await host.held.apply_tree(
                session_id, place, dict(body["change"]), epoch=epoch, placed_at=placed_at
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest("malformed request: no change of a tree") from error
        return Response(orjson.dumps(applied), media_type="application/json")

    return [
        ("GET", "/trees/{session_id}", tree),
        ("POST", "/trees/{session_id}", apply),
        ("GET", "/trees/{session_id}/file", read),
        ("PUT", "/trees/{session_id}", note),
    ]


def _named(request: Request) -> tuple[SessionId, str]:
    return SessionId(request.path_params["session_id"]), request.query_params.get("place", "")


async def _body(request: Request, *, bytes_max: int) -> dict[str, Json]:
    """Raises InvalidRequest, RequestTooLarge."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > bytes_max:
            raise RequestTooLarge(f"a request about trees has at most {bytes_max} bytes")
    try:
        return dict(orjson.loads(data))
    except (TypeError, ValueError) as error:
        raise InvalidRequest("malformed request: no object") from error
