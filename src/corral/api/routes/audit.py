"""The audit: what sandboxes asked for from the network. Ours, never under /v1. Source:
docs/how-to/let-sandboxes-out.md."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.openapi import takes
from corral.api.schema.audit import AuditQuery, SessionAuditQuery
from corral.api.schema.query import parse_query
from corral.catalog.audit import AuditEntry, AuditFilter
from corral.kernel.clock import rfc3339
from corral.kernel.cursor import Page
from corral.kernel.ids import AgentId, ApiKeyId, CredentialId, SessionId
from corral.session.content import Json

__all__ = ["audit_routes"]


def audit_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get("/corral/v1/audit", openapi_extra=takes(query=AuditQuery))
    async def list_audit(request: Request) -> Response:
        asked = parse_query(AuditQuery, request.query_params)
        where = AuditFilter(
            workspace_id=caller(request).covers,
            session_id=SessionId(asked.session_id) if asked.session_id else None,
            agent_id=AgentId(asked.agent_id) if asked.agent_id else None,
            api_key_id=ApiKeyId(asked.api_key_id) if asked.api_key_id else None,
            credential_id=CredentialId(asked.credential_id) if asked.credential_id else None,
            host=asked.host,
            decision=asked.decision,
            created_gte=asked.created_gte,
            created_lt=asked.created_lt,
        )
        page = await deps.audit.page(where, limit=asked.limit, cursor=asked.page)
        return _answer(page, tells_all=True)

    @router.get("/corral/v1/sessions/{session_id}/audit", openapi_extra=takes(query=SessionAuditQuery))
    async def list_session_audit(request: Request, session_id: SessionId) -> Response:
        asked = parse_query(SessionAuditQuery, request.query_params)
        await deps.sessions.read(session_id)
        where = AuditFilter(workspace_id=None, session_id=session_id, decision=asked.decision)
        page = await deps.audit.page(where, limit=asked.limit, cursor=asked.page)
        return _answer(page, tells_all=False)

    return router


def _answer(page: Page[AuditEntry], *, tells_all: bool) -> Response:
    return json_response(
        {"data": [_view(entry, tells_all=tells_all) for entry in page.items], "next_page": page.next_cursor}
    )


def _view(entry: AuditEntry, *, tells_all: bool) -> dict[str, Json]:
    """tells_all: to somebody who may know our network, and whose sessions there are."""
    begun, ended = entry.begun, entry.ended
    shown: dict[str, Json] = {
        "id": begun.entry_id,
        "type": "audit_entry",
        "created_at": rfc3339(begun.created_at),
        "session_id": begun.session_id,
        "host": begun.host,
        "port": begun.port,
        "method": begun.method,
        "decision": begun.decision,
        "reason": begun.reason or None,
        "credential_id": begun.credential_id,
        "sent_bytes": ended.sent_bytes if ended else None,
        "received_bytes": ended.received_bytes if ended else None,
        "seconds": round(ended.seconds, 3) if ended else None,
        "failed": ended.failed or None if ended else None,
    }
    if tells_all:
        shown |= {
            "detail": begun.detail or None,
            "workspace_id": entry.workspace_id,
            "agent_id": entry.agent_id,
            "api_key_id": entry.api_key_id,
        }
    return shown
