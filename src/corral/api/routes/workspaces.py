"""/corral/v1/workspaces: for operators. Ours, never under /v1. Source: docs/how-to/keep-teams-apart.md."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import StringConstraints
from starlette.responses import Response

from corral.api.answer import json_answer, json_response
from corral.api.auth import Authenticator
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import Strict, parse, parse_empty
from corral.catalog.idempotency import Answer
from corral.catalog.workspaces import Workspace
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import DEFAULT_WORKSPACE, WORKSPACE, WorkspaceId
from corral.kernel.limits import WORKSPACE_NAME_CHARS_MAX
from corral.session.content import Json

__all__ = ["WorkspaceCreate", "workspace_routes"]


class WorkspaceCreate(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=WORKSPACE_NAME_CHARS_MAX)]


def workspace_routes(deps: Dependencies, once: OnceOnly, authenticator: Authenticator) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get("/corral/v1/workspaces")
    async def list_workspaces(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        found = await deps.workspace_records.all()
        return json_response({"data": [_DEFAULT, *(_view(workspace) for workspace in found)]})

    @router.post("/corral/v1/workspaces", openapi_extra=takes(body=WorkspaceCreate))
    @once.per_key
    async def create_workspace(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        asked = parse(WorkspaceCreate, await request.body())
        workspace = Workspace(
            workspace_id=WorkspaceId(deps.ids.mint(WORKSPACE)), name=asked.name, created_at=deps.clock.now()
        )
        return await once.perform(
            request,
            lambda: deps.workspace_records.create(workspace),
            lambda _: _answer(workspace),
        )

    @router.get("/corral/v1/workspaces/{workspace_id}")
    async def retrieve_workspace(request: Request, workspace_id: WorkspaceId) -> Response:
        parse_query(NoQuery, request.query_params)
        if workspace_id == DEFAULT_WORKSPACE:
            return json_response(_DEFAULT)
        return json_response(_view(await deps.workspace_records.read(workspace_id)))

    @router.post("/corral/v1/workspaces/{workspace_id}/archive")
    @once.per_key
    async def archive_workspace(request: Request, workspace_id: WorkspaceId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        if workspace_id == DEFAULT_WORKSPACE:
            raise InvalidRequest("The default workspace cannot be archived")
        now = deps.clock.now()
        answered = await once.perform(
            request, lambda: deps.workspace_records.archive(workspace_id, now=now), _answer
        )
        authenticator.forget()
        return answered

    return router


def _answer(workspace: Workspace) -> Answer:
    return json_answer(_view(workspace))


def _view(workspace: Workspace) -> dict[str, Json]:
    return {
        "id": workspace.workspace_id,
        "type": "workspace",
        "name": workspace.name,
        "created_at": rfc3339(workspace.created_at),
        "archived_at": None if workspace.archived_at is None else rfc3339(workspace.archived_at),
    }


_DEFAULT: dict[str, Json] = {
    "id": DEFAULT_WORKSPACE,
    "type": "workspace",
    "name": "Default",
    "created_at": None,
    "archived_at": None,
}
"""It has no record."""
