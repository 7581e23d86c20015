"""Request shapes of files."""

from typing import Annotated, Any, Final

from pydantic import Field

from corral.api.schema.query import Query
from corral.kernel.limits import FILE_PAGE_LIMIT_MAX, FILE_SECONDS_MAX, FILE_SECONDS_MIN

__all__ = ["UPLOAD", "FileListQuery"]


class FileListQuery(Query):
    """`ids[]` excludes `limit` and the pages. `after_id` and `before_id` are how older SDKs page."""

    ids: Annotated[list[str] | None, Field(alias="ids[]")] = None
    limit: Annotated[int, Field(ge=1, le=FILE_PAGE_LIMIT_MAX)] | None = None
    page: str | None = None
    scope_id: str | None = None
    after_id: str | None = None
    before_id: str | None = None


UPLOAD: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "expires_in_seconds": {
            "type": "integer",
            "minimum": FILE_SECONDS_MIN,
            "maximum": FILE_SECONDS_MAX,
        },
    },
    "required": ["file"],
    "additionalProperties": False,
}
"""The form of `POST /v1/files`."""
