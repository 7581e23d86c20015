"""The keys that seal secrets: which there are, and rotation. Ours, never under /v1."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.dependencies import Dependencies
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse_empty
from corral.catalog.vaults import KeyUse
from corral.kernel.clock import rfc3339
from corral.session.content import Json

__all__ = ["vault_key_routes"]


def vault_key_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["corral"])

    async def answer() -> Response:
        uses = await deps.vault_keys.all()
        is_rotating = any(not use.is_current or use.rotation_asked_at for use in uses)
        return json_response(
            {"type": "vault_keys", "is_rotating": is_rotating, "keys": [_view(use) for use in uses]}
        )

    @router.get("/corral/v1/vault/keys")
    async def list_vault_keys(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        return await answer()

    @router.post("/corral/v1/vault/rotate_key")
    async def rotate_vault_key(request: Request) -> Response:
        """Asks for it; an egress node does it within a second or so."""
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        await deps.vault_keys.ask_rotation(now=deps.clock.now())
        return await answer()

    return router


def _view(use: KeyUse) -> dict[str, Json]:
    return {
        "id": use.key.key_id,
        "type": "vault_key",
        "state": "current" if use.is_current else "old",
        "created_at": rfc3339(use.created_at),
        "secrets": use.secrets,
    }
