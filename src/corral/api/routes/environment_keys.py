"""/corral/v1/environments/{id}/keys: keys for the workers of a self-hosted environment. Ours: the hosted
service makes them in its console. Source: docs/DIVERGENCES.md."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.openapi import takes
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse, parse_empty
from corral.api.schema.work import EnvironmentKeyCreate
from corral.catalog.environment_keys import EnvironmentKey, environment_key, new_environment_secret
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import EnvironmentId, EnvironmentKeyId
from corral.session.content import Json

__all__ = ["environment_key_routes"]

_KEYS = "/corral/v1/environments/{environment_id}/keys"


def environment_key_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get(_KEYS)
    async def list_environment_keys(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        keys = await deps.environment_keys.of_environment(
            environment_id, workspace_id=caller(request).workspace_id
        )
        return json_response({"data": [_view(key) for key in keys]})

    @router.post(_KEYS, openapi_extra=takes(body=EnvironmentKeyCreate))
    async def create_environment_key(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        if "idempotency-key" in request.headers:
            raise InvalidRequest(
                "Idempotency-Key: not for environment keys, whose secret is never stored; leave it out"
            )
        secret = new_environment_secret()
        key = environment_key(
            secret,
            workspace_id=caller(request).workspace_id,
            environment_id=environment_id,
            name=parse(EnvironmentKeyCreate, await request.body()).name,
            ids=deps.ids,
            now=deps.clock.now(),
        )
        await deps.environment_keys.add(key)
        return json_response({**_view(key), "key": secret})

    @router.post(_KEYS + "/{environment_key_id}/revoke")
    async def revoke_environment_key(
        request: Request, environment_id: EnvironmentId, environment_key_id: EnvironmentKeyId
    ) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        await deps.environment_keys.revoke(
            environment_id,
            environment_key_id,
            workspace_id=caller(request).workspace_id,
            now=deps.clock.now(),
        )
        return json_response({"id": environment_key_id, "type": "environment_key_revoked"})

    return router


def _view(key: EnvironmentKey) -> dict[str, Json]:
    return {
        "id": key.environment_key_id,
        "type": "environment_key",
        "environment_id": key.environment_id,
        "name": key.name,
        "hint": key.hint,
        "created_at": rfc3339(key.created_at),
        "revoked_at": None if key.revoked_at is None else rfc3339(key.revoked_at),
    }
