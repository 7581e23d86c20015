"""/v1/agents. Source: API docs, agents."""

from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_answer, json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.schema.agents import AgentCreate, AgentUpdate
from corral.api.schema.query import AgentListQuery, AgentQuery, NoQuery, PageQuery, parse_query
from corral.api.schema.strict import parse, parse_empty
from corral.catalog.agents import new_agent, updated_agent
from corral.catalog.records import Wire
from corral.catalog.skills.attached import attach
from corral.kernel.cursor import Page
from corral.kernel.ids import AGENT, AgentId


def agent_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["agents"])

    async def resolved(request: Request, given: dict[str, Any]) -> dict[str, Any]:
        """With the versions of skills that are meant. Raises InvalidRequest."""
        if not given.get("skills"):
            return given
        skills = await attach(deps.skill_versions, caller(request).workspace_id, given["skills"])
        return {**given, "skills": [skill.wire for skill in skills]}

    @router.post("/v1/agents", openapi_extra=takes(body=AgentCreate))
    @once.per_key
    async def create_agent(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        given = await resolved(request, parse(AgentCreate, await request.body()).given())
        agent_id = AgentId(deps.ids.mint(AGENT))
        agent = new_agent(
            given,
            agent_id=agent_id,
            models=deps.models,
            now=deps.clock.now(),
            has_search=deps.has_search,
        )
        workspace_id = caller(request).workspace_id
        return await once.perform(
            request,
            lambda: deps.agents.create(agent, workspace_id=workspace_id),
            lambda _: json_answer(agent),
        )

    @router.get("/v1/agents", openapi_extra=takes(query=AgentListQuery))
    async def list_agents(request: Request) -> Response:
        query = parse_query(AgentListQuery, request.query_params)
        page = await deps.agents.page(
            workspace_id=caller(request).workspace_id,
            limit=query.limit,
            cursor=query.page,
            include_archived=query.include_archived,
            created_gte=query.created_gte,
            created_lte=query.created_lte,
        )
        return page_response(page)

    @router.get("/v1/agents/{agent_id}", openapi_extra=takes(query=AgentQuery))
    async def retrieve_agent(request: Request, agent_id: AgentId) -> Response:
        query = parse_query(AgentQuery, request.query_params)
        workspace_id = caller(request).workspace_id
        return json_response(
            await deps.agents.read(agent_id, workspace_id=workspace_id, version=query.version)
        )

    @router.post("/v1/agents/{agent_id}", openapi_extra=takes(body=AgentUpdate))
    @once.per_key
    async def update_agent(request: Request, agent_id: AgentId) -> Response:
        parse_query(NoQuery, request.query_params)
        given = await resolved(request, parse(AgentUpdate, await request.body()).given())
        now = deps.clock.now()
        workspace_id = caller(request).workspace_id
        return await once.perform(
            request,
            lambda: deps.agents.update(
                agent_id,
                lambda current: updated_agent(
                    current, given, models=deps.models, now=now, has_search=deps.has_search
                ),
                workspace_id=workspace_id,
            ),
            json_answer,
        )

    @router.get("/v1/agents/{agent_id}/versions", openapi_extra=takes(query=PageQuery))
    async def list_agent_versions(request: Request, agent_id: AgentId) -> Response:
        query = parse_query(PageQuery, request.query_params)
        page = await deps.agents.versions(
            agent_id, workspace_id=caller(request).workspace_id, limit=query.limit, cursor=query.page
        )
        return page_response(page)

    @router.post("/v1/agents/{agent_id}/archive")
    @once.per_key
    async def archive_agent(request: Request, agent_id: AgentId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        workspace_id, now = caller(request).workspace_id, deps.clock.now()
        return await once.perform(
            request,
            lambda: deps.agents.archive(agent_id, workspace_id=workspace_id, now=now),
            json_answer,
        )

    return router


def page_response(page: Page[Wire]) -> Response:
    body = orjson.dumps({"data": list(page.items), "next_page": page.next_cursor})
    return Response(body, media_type="application/json")
