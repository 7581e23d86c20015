"""What the OpenAPI document says about routes that parse their own bodies and queries.

The routes read raw bytes, because the parser must name fields as the official service does and stored JSON
passes through unparsed; so the document is told here what FastAPI cannot see.
"""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from corral.api.gate import PUBLIC_PATHS
from corral.api.guard import least_role
from corral.api.schema.answers import ERRORS, answer_schemas, answer_to
from corral.api.schema.query import Query, StreamQuery
from corral.api.schema.strict import Strict

_REF = "#/components/schemas/{model}"
_ABOUT = (
    "The Managed Agents API under /v1, and what Corral adds under /corral/v1. Every answer has a"
    " request-id. x-corral-role: what a key must at least be."
)
_OTHER_MEDIA: Mapping[str, str] = {
    "application/octet-stream": r"GET /v1/files/.*/content",
    "application/zip": r"GET /v1/skills/.*/content",
    "application/x-tar": r"GET /corral/v1/sessions/.*/workspace",
    "text/plain": r"GET /metrics",
    "text/html": r"GET /corral/v1/docs",
}


def _header(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_HEADERS: Mapping[str, Any] = {
    "Version": _header("anthropic-version", "2026-10-21 or 2023-06-01; needed if strict_headers is set."),
    "Betas": _header("anthropic-beta", "Comma-separated; needed on some routes if strict_headers is set."),
    "Workspace": _header("anthropic-workspace-id", "The key's own; an operator's key may name any."),
    "IdempotencyKey": _header("Idempotency-Key", "The same key and body again: the first answer again."),
}


def takes(
    *,
    body: type[Strict] | None = None,
    form: dict[str, Any] | None = None,
    query: type[Query] | None = None,
) -> dict[str, Any]:
    """`openapi_extra` of a route: its body or form (a JSON Schema), and query shapes."""
    extra: dict[str, Any] = {}
    if body is not None:
        schema = {"$ref": _REF.format(model=body.__name__)}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if form is not None:
        extra["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    if query is not None:
        properties = query.model_json_schema(ref_template=_REF)["properties"]
        extra["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
        ]
    return extra


def document(api: FastAPI, bodies: list[type[BaseModel]], streams: list[str]) -> dict[str, Any]:
    """The whole document. `streams` are the paths that are ASGI endpoints of their own."""
    routes = [route for route in api.routes if isinstance(route, APIRoute) and route.include_in_schema]
    spec = get_openapi(title="Corral", version=api.version, routes=routes, description=_ABOUT)
    for path in streams:
        spec["paths"][path] = {"get": _stream(path)}
    components = spec.setdefault("components", {})
    _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
    sent, answered = definitions.get("$defs", {}), answer_schemas()
    assert not set(sent) & set(answered), "two shapes of one name"
    components["schemas"] = {**sent, **answered}
    components["parameters"] = _HEADERS
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    components["responses"] = {
        meaning.partition(":")[0]: {
            "description": meaning.partition(": ")[2],
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
        }
        for meaning in ERRORS.values()
    }
    names = {(path, method): route.name for route in routes for path, method in _operations(route)}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            operation["operationId"] = names.get((path, method)) or operation["operationId"]
            _complete(operation, method.upper(), path)
    return spec


def _operations(route: APIRoute) -> list[tuple[str, str]]:
    return [(route.path_format, method.lower()) for method in route.methods or ()]


def _stream(path: str) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    resume = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "Go on behind this frame; without it the stream begins now.",
    }
    return {
        "tags": ["events"],
        "summary": "Stream events as server-sent events",
        "operationId": "stream_thread_events" if "thread_id" in names else "stream_events",
        "parameters": [*in_path, *takes(query=StreamQuery)["parameters"], resume],
        "responses": {"200": {"description": "Events", "content": {"text/event-stream": {}}}},
    }


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    """What all operations have in common, and the shape of the answer."""
    is_public = path in PUBLIC_PATHS
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own checks: ours answer 400
    content = responses["200"].get("content", {})
    for media_type, other in _OTHER_MEDIA.items():
        if re.fullmatch(other, f"{method} {path}"):
            responses["200"]["content"] = {media_type: {"schema": {"type": "string", "format": "binary"}}}
            if media_type == "application/octet-stream":
                responses["206"] = {**responses["200"], "description": "The range that was asked for"}
    if content.get("application/json", {}).get("schema") == {}:
        content["application/json"]["schema"] = answer_to(method, path)
    if path == "/readyz":
        responses["503"] = {"description": "Not ready; `checks` says why", "content": dict(content)}
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _without_null(parameter["schema"])
    if not parameters:
        del operation["parameters"]
    if is_public:
        return
    operation["security"] = [{"ApiKey": []}, {"Bearer": []}]
    operation["x-corral-role"] = least_role(method, path)
    of_all = ["Workspace", *(("Version", "Betas") if path.startswith("/v1/") else ())]
    if method in ("POST", "DELETE") and path.startswith("/v1/"):
        of_all.append("IdempotencyKey")
    operation["parameters"] = [
        *parameters,
        *({"$ref": f"#/components/parameters/{name}"} for name in of_all),
    ]
    for status, meaning in ERRORS.items():
        name = meaning.partition(":")[0]
        responses.setdefault(status, {"$ref": f"#/components/responses/{name}"})


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a parameter, which has no way to be null: to leave it out is meant."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "title")}
    if rest.get("default", 0) is None:
        del rest["default"]
    if "anyOf" not in schema:
        return rest
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}
