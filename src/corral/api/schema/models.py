"""Request shapes of models and token counting."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from corral.api.schema.query import Query
from corral.api.schema.strict import Strict
from corral.kernel.limits import (
    MODEL_ID_CHARS_MAX,
    MODEL_PAGE_LIMIT_MAX,
    PAGE_LIMIT_DEFAULT,
)


class ModelListQuery(Query):
    """`after_id` and `before_id`: ids of models, as this older kind of list has it."""

    limit: Annotated[int, Field(ge=1, le=MODEL_PAGE_LIMIT_MAX)] = PAGE_LIMIT_DEFAULT
    after_id: str | None = None
    before_id: str | None = None
    lifecycle: Annotated[
        list[Literal["active", "deprecated", "retired"]] | None, Field(alias="lifecycle[]", max_length=3)
    ] = None


class TokenCount(Strict):
    """Everything but the model is for its provider, who checks it: it is passed on as it was sent."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, StringConstraints(min_length=1, max_length=MODEL_ID_CHARS_MAX)]
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
