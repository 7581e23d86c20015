"""POST /corral/v1/kill: stop spending, now. Ours, never under /v1. Source: docs/DIVERGENCES.md."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import StringConstraints
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.openapi import takes
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import Strict, parse
from corral.kernel import cursor
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.kernel.cursor import BAD_CURSOR
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import SessionId
from corral.kernel.limits import KILL_REASON_CHARS_MAX
from corral.session.kill import KillTarget

__all__ = ["Kill", "kill_routes"]


class Kill(Strict):
    """Exactly one of session_id, agent_id and all. `page`: next_page of the answer before."""

    session_id: str | None = None
    agent_id: str | None = None
    all: Literal[True] | None = None
    reason: Annotated[str, StringConstraints(min_length=1, max_length=KILL_REASON_CHARS_MAX)]
    page: str | None = None


def kill_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.post("/corral/v1/kill", openapi_extra=takes(body=Kill))
    async def kill(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        asked = parse(Kill, await request.body())
        if len([given for given in (asked.session_id, asked.agent_id, asked.all) if given]) != 1:
            raise InvalidRequest("Give exactly one of session_id, agent_id and all")
        now = deps.clock.now()
        after, before = None, now
        if asked.page is not None:
            after, began = cursor.decode("kill", asked.page, shape=(str, str))
            try:
                before = parse_rfc3339(began)
            except ValueError:
                raise InvalidRequest(BAD_CURSOR) from None
        killed = await deps.kills.kill(
            KillTarget(
                session_id=SessionId(asked.session_id) if asked.session_id else None,
                agent_id=asked.agent_id,
                workspace_id=caller(request).covers,
            ),
            reason=asked.reason,
            now=now,
            after=None if after is None else SessionId(after),
            before=before,
        )
        following = None if killed.after is None else cursor.encode("kill", killed.after, rfc3339(before))
        return json_response(
            {"type": "killed", "session_ids": list(killed.session_ids), "next_page": following}
        )

    return router
