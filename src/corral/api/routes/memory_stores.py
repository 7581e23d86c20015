"""/v1/memory_stores. Source: API docs, memory."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_answer, json_response
from corral.api.betas import AGENT_MEMORY, MANAGED_AGENTS, refuse_both
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.routes.agents import page_response
from corral.api.schema.memory import MemoryStoreCreate, MemoryStoreListQuery, MemoryStoreUpdate
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse, parse_empty
from corral.catalog.memory.ports import StoreKey
from corral.catalog.memory.stores import new_memory_store, updated_memory_store
from corral.kernel.ids import MEMORY_STORE, MemoryStoreId

__all__ = ["memory_store_routes", "store_key"]


def store_key(request: Request, memory_store_id: MemoryStoreId) -> StoreKey:
    """The store that a request names, in the caller's workspace. First in every route of memory stores.

    Raises InvalidRequest: it asks for two versions of this API.
    """
    refuse_both(request, AGENT_MEMORY, MANAGED_AGENTS)
    return StoreKey(caller(request).workspace_id, memory_store_id)


def memory_store_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["memory stores"])

    @router.post("/v1/memory_stores", openapi_extra=takes(body=MemoryStoreCreate))
    @once.per_key
    async def create_memory_store(request: Request) -> Response:
        refuse_both(request, AGENT_MEMORY, MANAGED_AGENTS)
        parse_query(NoQuery, request.query_params)
        given = parse(MemoryStoreCreate, await request.body()).given()
        memory_store_id = MemoryStoreId(deps.ids.mint(MEMORY_STORE))
        store = new_memory_store(given, memory_store_id=memory_store_id, now=deps.clock.now())
        workspace_id = caller(request).workspace_id
        return await once.perform(
            request,
            lambda: deps.memory_stores.create(workspace_id, store),
            lambda _: json_answer(store),
        )

    @router.get("/v1/memory_stores", openapi_extra=takes(query=MemoryStoreListQuery))
    async def list_memory_stores(request: Request) -> Response:
        refuse_both(request, AGENT_MEMORY, MANAGED_AGENTS)
        query = parse_query(MemoryStoreListQuery, request.query_params)
        page = await deps.memory_stores.page(
            caller(request).workspace_id,
            limit=query.limit,
            cursor=query.page,
            include_archived=query.include_archived,
            created_gte=query.created_gte,
            created_lte=query.created_lte,
        )
        return page_response(page)

    @router.get("/v1/memory_stores/{memory_store_id}")
    async def retrieve_memory_store(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        parse_query(NoQuery, request.query_params)
        return json_response(await deps.memory_stores.read(at))

    @router.post("/v1/memory_stores/{memory_store_id}", openapi_extra=takes(body=MemoryStoreUpdate))
    @once.per_key
    async def update_memory_store(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        parse_query(NoQuery, request.query_params)
        given, now = parse(MemoryStoreUpdate, await request.body()).given(), deps.clock.now()
        return await once.perform(
            request,
            lambda: deps.memory_stores.update(
                at, lambda current: updated_memory_store(current, given, now=now)
            ),
            json_answer,
        )

    @router.delete("/v1/memory_stores/{memory_store_id}")
    @once.per_key
    async def delete_memory_store(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        parse_query(NoQuery, request.query_params)
        return await once.perform(
            request,
            lambda: deps.memory_stores.delete(at),
            lambda _: json_answer({"id": memory_store_id, "type": "memory_store_deleted"}),
        )

    @router.post("/v1/memory_stores/{memory_store_id}/archive")
    @once.per_key
    async def archive_memory_store(request: Request, memory_store_id: MemoryStoreId) -> Response:
        at = store_key(request, memory_store_id)
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        now = deps.clock.now()
        return await once.perform(request, lambda: deps.memory_stores.archive(at, now=now), json_answer)

    return router
