"""Queries of the audit."""

from typing import Annotated

from pydantic import Field

from corral.api.schema.query import PageLimit, Query, Time
from corral.catalog.audit import Decision
from corral.kernel.limits import AUDIT_PAGE_LIMIT_MAX, PAGE_LIMIT_DEFAULT

__all__ = ["AuditQuery", "SessionAuditQuery"]

_Limit = Annotated[int, Field(ge=1, le=AUDIT_PAGE_LIMIT_MAX)]


class SessionAuditQuery(Query):
    decision: Decision | None = None
    limit: PageLimit = PAGE_LIMIT_DEFAULT
    page: str | None = None


class AuditQuery(Query):
    session_id: str | None = None
    agent_id: str | None = None
    api_key_id: str | None = None
    credential_id: str | None = None
    host: str | None = None
    decision: Decision | None = None
    created_gte: Annotated[Time | None, Field(alias="created_at[gte]")] = None
    created_lt: Annotated[Time | None, Field(alias="created_at[lt]")] = None
    limit: _Limit = PAGE_LIMIT_DEFAULT
    page: str | None = None
