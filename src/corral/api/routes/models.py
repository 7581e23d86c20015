"""/v1/models and the counting of tokens, for clients that have one base URL for everything.

Source: API docs, models; the shapes of the official SDK.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.dependencies import Dependencies
from corral.api.openapi import takes
from corral.api.schema.models import ModelListQuery, TokenCount
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse
from corral.catalog.models import ModelInfo
from corral.kernel.errors import InvalidRequest, NotFound
from corral.session.content import Json

__all__ = ["model_routes"]

_UNKNOWN_DATE = "1970-01-01T00:00:00Z"  # what the API documents for a release date nobody knows


def model_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", openapi_extra=takes(query=ModelListQuery))
    async def list_models(request: Request) -> Response:
        query = parse_query(ModelListQuery, request.query_params)
        if query.after_id is not None and query.before_id is not None:
            raise InvalidRequest("before_id: leave it out, or after_id")
        # The table knows of no end of a model: all of them are active.
        names = [] if query.lifecycle and "active" not in query.lifecycle else list(deps.models.names)
        page, has_more = _page(names, query)
        return json_response(
            {
                "data": [_view(deps.models.resolve(name)) for name in page],
                "has_more": has_more,
                "first_id": page[0] if page else None,
                "last_id": page[-1] if page else None,
            }
        )

    @router.get("/v1/models/{model_id}")
    async def retrieve_model(request: Request, model_id: str) -> Response:
        parse_query(NoQuery, request.query_params)
        try:
            return json_response(_view(deps.models.resolve(model_id)))
        except InvalidRequest as error:
            raise NotFound(error.message) from None

    @router.post("/v1/messages/count_tokens", openapi_extra=takes(body=TokenCount))
    async def count_tokens(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        asked = parse(TokenCount, await request.body()).given()
        return json_response({"input_tokens": await deps.token_counter.count_tokens(asked)})

    return router


def _page(names: list[str], query: ModelListQuery) -> tuple[list[str], bool]:
    """The names on this page, and whether there are more in its direction."""
    if query.before_id is not None:
        end = _place(names, query.before_id, "before_id")
        begin = max(0, end - query.limit)
        return names[begin:end], begin > 0
    begin = 0 if query.after_id is None else _place(names, query.after_id, "after_id") + 1
    return names[begin : begin + query.limit], begin + query.limit < len(names)


def _place(names: list[str], name: str, parameter: str) -> int:
    if name not in names:
        raise InvalidRequest(f"{parameter}: there is no model {name!r}")
    return names.index(name)


def _view(model: ModelInfo) -> dict[str, Json]:
    """capabilities is null: what else a provider supports, the table does not say."""
    return {
        "id": model.name,
        "type": "model",
        "display_name": model.name,
        "created_at": _UNKNOWN_DATE,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": model.context_window_tokens,
        "max_tokens": model.max_output_tokens,
        "capabilities": None,
        "allowed_fallback_models": [],
    }
