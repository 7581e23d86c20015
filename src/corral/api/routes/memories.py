"""/v1/memory_stores/{id}/memories and .../memory_versions. Source: API docs, memory."""

from typing import Literal, cast

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import bytes_response, json_answer, json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.memory_views import memory_view, prefix_view, version_view
from corral.api.openapi import takes
from corral.api.routes.memory_stores import store_key
from corral.api.schema.memory import (
    BasicViewQuery,
    FullViewQuery,
    MemoryCreate,
    MemoryDeleteQuery,
    MemoryListQuery,
    MemoryUpdate,
    MemoryVersionListQuery,
)
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse, parse_empty
from corral.catalog.memory.ports import Actor, VersionFilter
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import MemoryId, MemoryStoreId, MemoryVersionId

__all__ = ["memory_routes"]

_MEMORIES = "/v1/memory_stores/{memory_store_id}/memories"
_VERSIONS = "/v1/memory_stores/{memory_store_id}/memory_versions"


def _actor(request: Request) -> Actor:
    who = caller(request)
    if who.worker is not None and who.worker.session_id is not None:
        return Actor("session_actor", who.worker.session_id)  # for whose session the worker works
    return Actor("api_actor", who.api_key_id)


def memory_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["memory stores"])

    @router.post(_MEMORIES, openapi_extra=takes(body=MemoryCreate, query=BasicViewQuery))
    @once.per_key
    async def create_memory(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        is_full = parse_query(BasicViewQuery, request.query_params).view == "full"
        given = parse(MemoryCreate, await request.body())
        return await once.perform(
            request,
            lambda: deps.memories.create(at, path=given.path, content=given.content, actor=_actor(request)),
            lambda memory: json_answer(memory_view(memory, is_full=is_full)),
        )

    @router.get(_MEMORIES, openapi_extra=takes(query=MemoryListQuery))
    async def list_memories(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        query = parse_query(MemoryListQuery, request.query_params)
        is_full = query.view == "full"
        page = await deps.memories.page(
            at,
            prefix=query.path_prefix,
            depth=cast(Literal[0, 1], query.depth),
            limit=query.items_max,
            cursor=query.page,
            has_content=is_full,
        )
        items = [
            prefix_view(item) if isinstance(item, str) else memory_view(item, is_full=is_full)
            for item in page.items
        ]
        return bytes_response(orjson.dumps({"data": items, "next_page": page.next_cursor}))

    @router.get(_MEMORIES + "/{memory_id}", openapi_extra=takes(query=FullViewQuery))
    @once.per_key
    async def retrieve_memory(
        request: Request, memory_store_id: MemoryStoreId, memory_id: MemoryId
    ) -> Response:
        at = store_key(request, memory_store_id)
        is_full = parse_query(FullViewQuery, request.query_params).view == "full"
        memory = await deps.memories.read(at, memory_id, has_content=is_full)
        return json_response(memory_view(memory, is_full=is_full))

    async def update_memory(
        request: Request, memory_store_id: MemoryStoreId, memory_id: MemoryId
    ) -> Response:
        at = store_key(request, memory_store_id)
        is_full = parse_query(BasicViewQuery, request.query_params).view == "full"
        given = parse(MemoryUpdate, await request.body())
        if given.path is None and given.content is None:
            raise InvalidRequest("An update needs content or path; both are missing")
        expected = given.precondition.content_sha256 if given.precondition else None
        return await once.perform(
            request,
            lambda: deps.memories.update(
                at,
                memory_id,
                path=given.path,
                content=given.content,
                expected_sha256=expected,
                actor=_actor(request),
            ),
            lambda memory: json_answer(memory_view(memory, is_full=is_full)),
        )

    of_memory, shapes = _MEMORIES + "/{memory_id}", takes(body=MemoryUpdate, query=BasicViewQuery)
    router.add_api_route(of_memory, update_memory, methods=["POST"], openapi_extra=shapes)
    # One reference table has PATCH; SDKs send POST.
    router.add_api_route(of_memory, update_memory, methods=["PATCH"], include_in_schema=False)

    @router.delete(_MEMORIES + "/{memory_id}", openapi_extra=takes(query=MemoryDeleteQuery))
    @once.per_key
    async def delete_memory(
        request: Request, memory_store_id: MemoryStoreId, memory_id: MemoryId
    ) -> Response:
        at = store_key(request, memory_store_id)
        expected = parse_query(MemoryDeleteQuery, request.query_params).expected_content_sha256
        return await once.perform(
            request,
            lambda: deps.memories.delete(at, memory_id, expected_sha256=expected, actor=_actor(request)),
            lambda _: json_answer({"id": memory_id, "type": "memory_deleted"}),
        )

    @router.get(_VERSIONS, openapi_extra=takes(query=MemoryVersionListQuery))
    async def list_memory_versions(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        query = parse_query(MemoryVersionListQuery, request.query_params)
        page = await deps.memory_versions.page(
            at,
            only=_filter(query),
            limit=query.items_max,
            cursor=query.page,
            has_content=query.view == "full",
        )
        items = [version_view(version) for version in page.items]
        return bytes_response(orjson.dumps({"data": items, "next_page": page.next_cursor}))

    @router.get(_VERSIONS + "/{memory_version_id}", openapi_extra=takes(query=FullViewQuery))
    async def retrieve_memory_version(
        request: Request, memory_store_id: MemoryStoreId, memory_version_id: MemoryVersionId
    ) -> Response:
        at = store_key(request, memory_store_id)
        is_full = parse_query(FullViewQuery, request.query_params).view == "full"
        version = await deps.memory_versions.read(at, memory_version_id, has_content=is_full)
        return json_response(version_view(version))

    @router.post(_VERSIONS + "/{memory_version_id}/redact")
    @once.per_key
    async def redact_memory_version(
        request: Request, memory_store_id: MemoryStoreId, memory_version_id: MemoryVersionId
    ) -> Response:
        at = store_key(request, memory_store_id)
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        return await once.perform(
            request,
            lambda: deps.memory_versions.redact(at, memory_version_id, actor=_actor(request)),
            lambda version: json_answer(version_view(version)),
        )

    return router


def _filter(query: MemoryVersionListQuery) -> VersionFilter:
    actors = [
        Actor("session_actor", query.session_id or ""),
        Actor("api_actor", query.api_key_id or ""),
        Actor("service_account_actor", query.service_account_id or ""),
    ]
    return VersionFilter(
        memory_id=None if query.memory_id is None else MemoryId(query.memory_id),
        operation=query.operation,
        actors=[actor for actor in actors if actor.id],
        created_gte=query.created_gte,
        created_lte=query.created_lte,
    )
