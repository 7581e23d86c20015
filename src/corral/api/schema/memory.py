"""Request shapes of memory stores, memories and their versions. Rules are in `catalog/memory`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from corral.api.schema.query import PageQuery, Query, Time
from corral.api.schema.strict import Metadata, MetadataPatch, Strict
from corral.catalog.memory.paths import check_content, check_path, check_prefix
from corral.catalog.memory.ports import Operation
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    MEMORY_FULL_PAGE_LIMIT_MAX,
    MEMORY_STORE_DESCRIPTION_CHARS_MAX,
    MEMORY_STORE_NAME_CHARS_MAX,
)

View = Literal["basic", "full"]
Name = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=MEMORY_STORE_NAME_CHARS_MAX, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"
    ),
]
Description = Annotated[str, StringConstraints(max_length=MEMORY_STORE_DESCRIPTION_CHARS_MAX)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _checked(check: Any) -> AfterValidator:
    """A rule of the catalog as one of the edge, which names the field by itself."""

    def validate(value: str) -> str:
        try:
            check(value)
        except InvalidRequest as refusal:
            raise ValueError(refusal.message.partition(": ")[2]) from None
        return value

    return AfterValidator(validate)


Path = Annotated[str, _checked(check_path)]
Content = Annotated[str, _checked(lambda value: check_content(value.encode()))]


class MemoryStoreCreate(Strict):
    name: Name
    description: Description | None = None
    metadata: Metadata | None = None


class MemoryStoreUpdate(Strict):
    """Omitted: keep. Null keeps `name` and `metadata`, and clears `description`."""

    name: Name | None = None
    description: Description | None = None
    metadata: MetadataPatch | None = None


class Precondition(Strict):
    type: Literal["content_sha256"]
    content_sha256: Sha256


class MemoryCreate(Strict):
    path: Path
    content: Content


class MemoryUpdate(Strict):
    """Omitted or null: keep."""

    path: Path | None = None
    content: Content | None = None
    precondition: Precondition | None = None


class MemoryStoreListQuery(PageQuery):
    include_archived: bool = False
    created_gte: Annotated[Time | None, Field(alias="created_at[gte]")] = None
    created_lte: Annotated[Time | None, Field(alias="created_at[lte]")] = None


class BasicViewQuery(Query):
    """Of what creates or updates."""

    view: View = "basic"


class FullViewQuery(Query):
    """Of what retrieves."""

    view: View = "full"


class MemoryDeleteQuery(Query):
    expected_content_sha256: Sha256 | None = None


class _ViewPageQuery(PageQuery):
    view: View = "basic"

    @property
    def items_max(self) -> int:
        """Items of this page: fewer with contents, whatever `limit` says."""
        return min(self.limit, MEMORY_FULL_PAGE_LIMIT_MAX) if self.view == "full" else self.limit


class MemoryListQuery(_ViewPageQuery):
    path_prefix: Annotated[str, _checked(check_prefix)] = "/"
    depth: Annotated[int, Field(ge=0, le=1)] = 0


class MemoryVersionListQuery(_ViewPageQuery):
    memory_id: str | None = None
    operation: Operation | None = None
    session_id: str | None = None
    api_key_id: str | None = None
    service_account_id: str | None = None
    created_gte: Annotated[Time | None, Field(alias="created_at[gte]")] = None
    created_lte: Annotated[Time | None, Field(alias="created_at[lte]")] = None
