"""Request shapes of work queues and environment keys."""

from typing import Annotated

from pydantic import Field, StringConstraints

from corral.api.schema.query import PageQuery, Query
from corral.api.schema.strict import MetadataPatch, Strict
from corral.kernel.limits import (
    API_KEY_NAME_CHARS_MAX,
    INTEGER_MAX,
    WORK_BLOCK_MS_MAX,
    WORK_CLAIM_SECONDS,
    WORK_RECLAIM_MS_MAX,
)

__all__ = [
    "EnvironmentKeyCreate",
    "WorkHeartbeatQuery",
    "WorkListQuery",
    "WorkPollQuery",
    "WorkStop",
    "WorkUpdate",
]


class WorkPollQuery(Query):
    block_ms: Annotated[int, Field(ge=1, le=WORK_BLOCK_MS_MAX)] | None = None
    reclaim_older_than_ms: Annotated[int, Field(ge=0, le=WORK_RECLAIM_MS_MAX)] = int(
        WORK_CLAIM_SECONDS * 1000
    )


class WorkHeartbeatQuery(Query):
    """`desired_ttl_seconds` out of bounds is taken for the nearest bound."""

    expected_last_heartbeat: str | None = None
    desired_ttl_seconds: Annotated[int, Field(ge=-INTEGER_MAX, le=INTEGER_MAX)] | None = None


class WorkListQuery(PageQuery):
    pass


class WorkStop(Strict):
    force: bool | None = None


class WorkUpdate(Strict):
    metadata: MetadataPatch | None = None


class EnvironmentKeyCreate(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=API_KEY_NAME_CHARS_MAX)]
