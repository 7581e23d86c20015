"""Request shapes of session resources. What each type means is in `api/resources.py`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from corral.api.schema.query import Query
from corral.api.schema.strict import OMITTED, Strict
from corral.api.schema.vaults import Token
from corral.kernel.limits import RESOURCE_PAGE_LIMIT_MAX

__all__ = [
    "FileAdd",
    "FileMount",
    "MemoryStoreMount",
    "RepositoryMount",
    "ResourceListQuery",
    "ResourceMount",
    "ResourceUpdate",
]

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=4096)]


class FileMount(Strict):
    type: Literal["file"]
    file_id: Id
    mount_path: Annotated[str, StringConstraints(min_length=1)] | None = None


class BranchCheckout(Strict):
    type: Literal["branch"]
    name: Text


class CommitCheckout(Strict):
    type: Literal["commit"]
    sha: Text


class RepositoryMount(Strict):
    type: Literal["github_repository"]
    url: Text
    authorization_token: Token = OMITTED
    checkout: Annotated[BranchCheckout | CommitCheckout, Field(discriminator="type")] | None = None
    mount_path: Text | None = None


class MemoryStoreMount(Strict):
    type: Literal["memory_store"]
    memory_store_id: Id
    access: Literal["read_write", "read_only"] | None = None
    instructions: Text | None = None


ResourceMount = Annotated[FileMount | RepositoryMount | MemoryStoreMount, Field(discriminator="type")]
"""A resource of a new session."""


class FileAdd(FileMount):
    """A resource of a session that lives: only files come and go."""


class ResourceUpdate(Strict):
    authorization_token: Token


class ResourceListQuery(Query):
    """Without `limit`: all."""

    limit: Annotated[int, Field(ge=1, le=RESOURCE_PAGE_LIMIT_MAX)] | None = None
    page: str | None = None
