"""What the OpenAPI document says about routes that parse their own bodies and queries.

The routes read raw bytes, because the parser must name fields as the official service does and stored JSON
passes through unparsed; so the document is told here what FastAPI cannot see.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from corral.api.schema.query import Query, StreamQuery
from corral.api.schema.strict import Strict

_REF = "#/components/schemas/{model}"


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
    spec = get_openapi(title="Corral", version=api.version, routes=api.routes)
    _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
    schemas = spec.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions.get("$defs", {}))
    for path in streams:
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        in_path = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
        spec["paths"][path] = {
            "get": {
                "summary": "Stream events as server-sent events",
                "parameters": in_path + takes(query=StreamQuery)["parameters"],
                "responses": {"200": {"description": "Events", "content": {"text/event-stream": {}}}},
            }
        }
    return spec
