"""/v1/environments. Source: API docs, environments."""

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_answer, json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.routes.agents import page_response
from corral.api.schema.environments import EnvironmentCreate, EnvironmentUpdate
from corral.api.schema.query import EnvironmentListQuery, NoQuery, parse_query
from corral.api.schema.strict import parse, parse_empty
from corral.api.views import environment_view
from corral.catalog.environments import new_environment, updated_environment
from corral.catalog.idempotency import Answer
from corral.catalog.records import Wire
from corral.kernel.ids import ENVIRONMENT, EnvironmentId


def environment_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["environments"])

    @router.post("/v1/environments", openapi_extra=takes(body=EnvironmentCreate))
    @once.per_key
    async def create_environment(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        given = parse(EnvironmentCreate, await request.body()).given()
        environment_id = EnvironmentId(deps.ids.mint(ENVIRONMENT))
        environment = new_environment(given, environment_id=environment_id, now=deps.clock.now())
        workspace_id = caller(request).workspace_id
        return await once.perform(
            request,
            lambda: deps.environments.create(environment, workspace_id=workspace_id),
            lambda _: _answer(environment),
        )

    @router.get("/v1/environments", openapi_extra=takes(query=EnvironmentListQuery))
    async def list_environments(request: Request) -> Response:
        query = parse_query(EnvironmentListQuery, request.query_params)
        page = await deps.environments.page(
            workspace_id=caller(request).workspace_id,
            limit=query.limit,
            cursor=query.page,
            include_archived=query.include_archived,
        )
        return page_response(replace(page, items=[environment_view(item) for item in page.items]))

    @router.get("/v1/environments/{environment_id}")
    async def retrieve_environment(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        workspace_id = caller(request).workspace_id
        environment = await deps.environments.read(environment_id, workspace_id=workspace_id)
        return json_response(environment_view(environment))

    @router.post("/v1/environments/{environment_id}", openapi_extra=takes(body=EnvironmentUpdate))
    @once.per_key
    async def update_environment(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        given, now = parse(EnvironmentUpdate, await request.body()).given(), deps.clock.now()
        workspace_id = caller(request).workspace_id
        return await once.perform(
            request,
            lambda: deps.environments.update(
                environment_id,
                lambda current: updated_environment(current, given, now=now),
                workspace_id=workspace_id,
            ),
            _answer,
        )

    @router.delete("/v1/environments/{environment_id}")
    @once.per_key
    async def delete_environment(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        workspace_id = caller(request).workspace_id
        return await once.perform(
            request,
            lambda: deps.environments.delete(environment_id, workspace_id=workspace_id),
            lambda _: json_answer({"id": environment_id, "type": "environment_deleted"}),
        )

    @router.post("/v1/environments/{environment_id}/archive")
    @once.per_key
    async def archive_environment(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        workspace_id, now = caller(request).workspace_id, deps.clock.now()
        return await once.perform(
            request,
            lambda: deps.environments.archive(environment_id, workspace_id=workspace_id, now=now),
            _answer,
        )

    return router


def _answer(environment: Wire) -> Answer:
    return json_answer(environment_view(environment))
