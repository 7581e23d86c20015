"""What encloses every application of ours, and the small one of a node that does not serve the API."""

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from corral import __version__
from corral.api.auth import Authenticator
from corral.api.dependencies import Operations
from corral.api.errors import envelope, http_error_response
from corral.api.gate import Gate
from corral.api.guard import guard
from corral.api.rate import Rates
from corral.api.routes.operations import operations_routes

__all__ = ["create_operations", "enclose"]


def create_operations(operations: Operations) -> FastAPI:
    """The ASGI application of a node without the role `api`: is it alive, is it well, what runs."""
    api = FastAPI(title="Corral", version=__version__, openapi_url=None, redirect_slashes=False)
    api.router.routes += operations_routes(operations).routes
    for route in api.router.routes:
        guard(route)
    authenticator = Authenticator(operations.api_keys, operations.workspace_records, operations.clock)
    enclose(api, operations, authenticator)
    api.add_exception_handler(HTTPException, _elsewhere)
    return api


def enclose(api: FastAPI, operations: Operations, authenticator: Authenticator) -> None:
    """One gate around all routes, one error envelope."""
    api.add_exception_handler(HTTPException, _routing_error)
    api.add_middleware(
        Gate,
        authenticator=authenticator,
        ids=operations.ids,
        admission=operations.admission,
        allowed_hosts=operations.allowed_hosts,
        rates=Rates(operations.edge, operations.clock),
        edge=operations.edge,
    )


async def _elsewhere(request: Request, error: Exception) -> Response:
    """What this node does not serve, another one may."""
    assert isinstance(error, HTTPException)
    if error.status_code != 404:
        return await _routing_error(request, error)
    message = (
        f"Not found: {request.url.path}: this node has no api role; use the url of one that has: see"
        " `corral status`"
    )
    body = envelope("not_found_error", message, request.scope["corral.request_id"])
    return Response(body, 404, media_type="application/json")


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    response = http_error_response(
        error.status_code, path, request.method, request.scope["corral.request_id"]
    )
    if error.status_code == 405:  # the router knows only the first route of the path
        routes = (route for route in request.app.routes if route.path_regex.fullmatch(path))
        methods = {"OPTIONS"}.union(*(route.methods for route in routes))
        allow = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": allow})
        response.headers["allow"] = allow
    return response
