"""/v1/sessions/{session_id}/resources. Source: API docs, sessions "Resources"."""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_answer, json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly, secret_digest
from corral.api.openapi import takes
from corral.api.resources import ResourceKinds, fits, named_files, with_token
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.resources import FileAdd, ResourceListQuery, ResourceUpdate
from corral.api.schema.strict import parse
from corral.api.sealing import taken_body, wipe
from corral.api.visible_files import VisibleFiles
from corral.catalog.idempotency import Answer
from corral.catalog.resources import check_self_hosted
from corral.kernel import cursor
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import ResourceId, SessionId
from corral.session.record import SessionRecord
from corral.session.resources import Resource

__all__ = ["resource_routes"]

_ALL = "/v1/sessions/{session_id}/resources"
_ONE = _ALL + "/{resource_id}"


def resource_routes(
    deps: Dependencies, once: OnceOnly, kinds: ResourceKinds, visible: VisibleFiles
) -> APIRouter:
    router = APIRouter(tags=["sessions"])

    @router.post(_ALL, openapi_extra=takes(body=FileAdd))
    @once.per_key
    async def add_resource(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        asked, now = parse(FileAdd, await request.body()), deps.clock.now()
        who = caller(request)
        session = await deps.sessions.read(session_id)  # the first to be missing, before what is mounted
        check_self_hosted(session.environment, [asked.type], where=[""])
        kind = kinds.of(asked.type, where="")
        await visible.check(who, named_files([asked]))
        new = await kind.prepare(asked, where="", workspace_id=who.workspace_id, now=now)
        return await once.perform(
            request,
            lambda: deps.resources.add(session_id, new, fits(new)),
            _answer,
        )

    @router.get(_ALL, openapi_extra=takes(query=ResourceListQuery))
    async def list_resources(request: Request, session_id: SessionId) -> Response:
        query = parse_query(ResourceListQuery, request.query_params)
        there = (await deps.sessions.read(session_id)).resources
        start = _start(session_id, query.page, there)
        page = there[start:] if query.limit is None else there[start : start + query.limit]
        end = start + len(page)
        next_page = _cursor(session_id, end, page[-1]) if page and end < len(there) else None
        return json_response({"data": [each.body for each in page], "next_page": next_page})

    @router.get(_ONE)
    async def retrieve_resource(
        request: Request, session_id: SessionId, resource_id: ResourceId
    ) -> Response:
        parse_query(NoQuery, request.query_params)
        return json_response(_found(await deps.sessions.read(session_id), resource_id).body)

    @router.post(_ONE, openapi_extra=takes(body=ResourceUpdate))
    async def update_resource(request: Request, session_id: SessionId, resource_id: ResourceId) -> Response:
        raw = await taken_body(request)
        digest = secret_digest(request, raw)
        if (replayed := await once.replay(request, digest)) is not None:
            wipe(raw)
            return replayed
        parse_query(NoQuery, request.query_params)
        try:
            asked, now = parse(ResourceUpdate, raw), deps.clock.now()
        finally:
            wipe(raw)
        session = await deps.sessions.read(session_id)
        current = _found(session, resource_id)
        token = await kinds.of(current.type, where="").sealed(
            current, asked.authorization_token, workspace_id=session.workspace_id
        )
        return await once.perform(
            request,
            lambda: deps.resources.update(
                session_id, resource_id, lambda current: with_token(current, now=now), token=token
            ),
            _answer,
            digest=digest,
        )

    @router.delete(_ONE)
    @once.per_key
    async def remove_resource(request: Request, session_id: SessionId, resource_id: ResourceId) -> Response:
        parse_query(NoQuery, request.query_params)

        def check(current: Resource) -> None:
            if not kinds.of(current.type, where="").is_removable:
                raise InvalidRequest(
                    f"A {current.type!r} resource stays as long as its session; only files can be removed"
                )

        return await once.perform(
            request,
            lambda: deps.resources.remove(session_id, resource_id, check),
            lambda _: json_answer({"id": resource_id, "type": "session_resource_deleted"}),
        )

    return router


def _found(session: SessionRecord, resource_id: ResourceId) -> Resource:
    """Raises NotFound."""
    for each in session.resources:
        if each.resource_id == resource_id:
            return each
    raise NotFound(f"Resource {resource_id!r} of session {session.session_id!r} was not found.")


def _answer(resource: Resource) -> Answer:
    return json_answer(resource.body)


def _kind(session_id: SessionId) -> str:
    return f"resources of {session_id}"


def _cursor(session_id: SessionId, end: int, last: Resource) -> str:
    return cursor.encode(_kind(session_id), end, last.resource_id or "")


def _start(session_id: SessionId, page: str | None, there: Sequence[Resource]) -> int:
    """Behind the last one given, if that is still there; else about where it was. Raises InvalidRequest."""
    if page is None:
        return 0
    end, last_id = cursor.decode(_kind(session_id), page, shape=(int, str))
    for number, each in enumerate(there):
        if last_id and each.resource_id == last_id:
            return number + 1
    return max(0, int(end) - 1) if last_id else int(end)
