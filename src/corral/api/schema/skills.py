"""Query shapes of skills. What is uploaded is checked by `catalog/skills` and `api/skill_upload`."""

from typing import Annotated, Literal

from pydantic import Field

from corral.api.schema.query import Query
from corral.kernel.limits import PAGE_LIMIT_DEFAULT, SKILL_PAGE_LIMIT_MAX


class SkillVersionListQuery(Query):
    limit: Annotated[int, Field(ge=1, le=SKILL_PAGE_LIMIT_MAX)] = PAGE_LIMIT_DEFAULT
    page: str | None = None


class SkillListQuery(SkillVersionListQuery):
    source: Literal["custom", "anthropic"] | None = None
