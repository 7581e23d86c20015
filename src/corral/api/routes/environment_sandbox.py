"""/corral/v1/environments/{id}/sandbox: who makes the sandboxes of an environment, and how much each takes.
Ours: the wire's environment has no such members. Source: docs/DIVERGENCES.md."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.openapi import takes
from corral.api.schema.environments import EnvironmentSandboxUpdate
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse
from corral.catalog.sandbox import sandbox_view, with_sandbox
from corral.kernel.ids import EnvironmentId

__all__ = ["environment_sandbox_routes"]

_SANDBOX = "/corral/v1/environments/{environment_id}/sandbox"


def environment_sandbox_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get(_SANDBOX)
    async def retrieve_environment_sandbox(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        workspace_id = caller(request).workspace_id
        environment = await deps.environments.read(environment_id, workspace_id=workspace_id)
        return json_response(sandbox_view(environment))

    @router.post(_SANDBOX, openapi_extra=takes(body=EnvironmentSandboxUpdate))
    async def update_environment_sandbox(request: Request, environment_id: EnvironmentId) -> Response:
        """Repeat: safe, so that no key is needed for it."""
        parse_query(NoQuery, request.query_params)
        given, now = parse(EnvironmentSandboxUpdate, await request.body()).given(), deps.clock.now()
        environment = await deps.environments.update(
            environment_id,
            lambda current: with_sandbox(current, given, now=now),
            workspace_id=caller(request).workspace_id,
        )
        return json_response(sandbox_view(environment))

    return router
