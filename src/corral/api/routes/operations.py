"""Ours, answered by every node: is it alive, is it well, what runs. Source: docs/ARCHITECTURE.md."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.dependencies import Operations
from corral.api.schema.query import NoQuery, parse_query


def operations_routes(operations: Operations) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get("/healthz")
    async def alive() -> Response:
        return json_response({"status": "ok"})

    @router.get("/readyz")
    async def ready() -> Response:
        checks = operations.readiness()
        is_ready = all(check.status != "failed" for check in checks.values())
        shown = {name: {"status": check.status, "reason": check.reason} for name, check in checks.items()}
        body = {"status": "ready" if is_ready else "not_ready", "checks": shown}
        return json_response(body, 200 if is_ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(await operations.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/corral/v1/status")
    async def status(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        return json_response(await operations.status())

    return router
