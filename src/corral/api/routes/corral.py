"""Ours: keys and workspaces. Never under /v1. Source: docs/ARCHITECTURE.md."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import StringConstraints
from starlette.responses import Response, StreamingResponse

from corral.api.answer import json_response
from corral.api.auth import Authenticator
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.guard import SessionOwners
from corral.api.openapi import takes
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import Strict, parse, parse_empty
from corral.catalog.keys import as_record, new_secret
from corral.catalog.records import ApiKey
from corral.catalog.roles import Role
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest, PermissionDenied
from corral.kernel.ids import SessionId, WorkspaceId
from corral.kernel.limits import API_KEY_NAME_CHARS_MAX
from corral.session.content import Json
from corral.session.inbox import is_self_hosted
from corral.session.sandboxes import SandboxView


class KeyCreate(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=API_KEY_NAME_CHARS_MAX)]
    role: Role = "developer"
    workspace_id: str | None = None


def corral_routes(deps: Dependencies, authenticator: Authenticator, owners: SessionOwners) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get("/corral/v1/keys")
    async def list_keys(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        keys = await deps.api_keys.all(workspace_id=caller(request).covers)
        return json_response({"data": [_key_view(key) for key in keys]})

    @router.post("/corral/v1/keys", openapi_extra=takes(body=KeyCreate))
    async def create_key(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        _refuse_idempotency(request)
        asked = parse(KeyCreate, await request.body())
        secret = new_secret()
        who = caller(request)
        if asked.workspace_id not in (None, who.workspace_id) and who.covers is not None:
            raise PermissionDenied(f"workspace_id: this key makes keys for {who.workspace_id!r} only")
        key = as_record(
            secret,
            name=asked.name,
            ids=deps.ids,
            now=deps.clock.now(),
            workspace_id=WorkspaceId(asked.workspace_id or who.workspace_id),
            role=asked.role,
        )
        await deps.api_keys.add(key)
        return json_response({**_key_view(key), "key": secret})

    @router.post("/corral/v1/keys/{api_key_id}/revoke")
    async def revoke_key(request: Request, api_key_id: str) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        covered = caller(request).covers
        await deps.api_keys.revoke(api_key_id, workspace_id=covered, now=deps.clock.now())
        authenticator.forget()
        return json_response({"id": api_key_id, "type": "api_key_revoked"})

    @router.get("/corral/v1/sandboxes")
    async def list_sandboxes(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        found, covered = await deps.sandboxes.all(), caller(request).covers
        if covered is not None:
            whose = [await owners.of(view.session_id) for view in found]
            found = [
                view
                for view, owner in zip(found, whose, strict=True)
                if owner is not None and owner.workspace_id == covered
            ]
        return json_response({"data": [_sandbox_view(view) for view in found]})

    @router.post("/corral/v1/sandboxes/{session_id}/evict")
    async def evict_sandbox(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        return json_response(_sandbox_view(await deps.sandboxes.evict(session_id)))

    @router.put("/corral/v1/sessions/{session_id}/workspace")
    async def import_workspace(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        record = await deps.sessions.read(session_id)
        if is_self_hosted(record.environment):
            raise InvalidRequest(
                f"Session {session_id} runs on workers of its environment: its files are there, not here"
            )
        if record.status != "idle" or record.archived_at is not None:
            raise InvalidRequest(
                f"Session {session_id} is {'archived' if record.archived_at else record.status}; files"
                " go in while it is idle"
            )
        await deps.workspaces.import_workspace(session_id, request.stream())
        return json_response({"session_id": session_id, "type": "workspace_imported"})

    @router.get("/corral/v1/sessions/{session_id}/workspace")
    async def export_workspace(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        await deps.sessions.read(session_id)
        chunks = deps.workspaces.export_workspace(session_id)
        first = await anext(chunks, b"")  # what fails, fails before the answer begins
        return StreamingResponse(_rest(first, chunks), media_type="application/x-tar")

    return router


async def _rest(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk


def _refuse_idempotency(request: Request) -> None:
    """A recorded answer would keep the secret that is kept nowhere."""
    if "idempotency-key" in request.headers:
        raise InvalidRequest(
            "Idempotency-Key: not for API keys, whose secret is never stored; leave it out"
        )


def _sandbox_view(view: SandboxView) -> dict[str, Json]:
    return {
        "type": "sandbox",
        "host_id": view.host_id,
        "session_id": view.session_id,
        "provider": view.provider,
        "is_busy": view.is_busy,
        "idle_seconds": view.idle_seconds,
        "disk_bytes": view.disk_bytes,
        "has_changed": view.has_changed,
        "checkpoint_at": None if view.checkpoint_at is None else rfc3339(view.checkpoint_at),
    }


def _key_view(key: ApiKey) -> dict[str, Json]:
    return {
        "id": key.api_key_id,
        "type": "api_key",
        "name": key.name,
        "hint": key.hint,
        "role": key.role,
        "workspace_id": key.workspace_id,
        "last_used_at": None if key.last_used_at is None else rfc3339(key.last_used_at),
        "created_at": rfc3339(key.created_at),
        "revoked_at": None if key.revoked_at is None else rfc3339(key.revoked_at),
    }
