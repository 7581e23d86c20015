"""Which sandboxes a caller is shown: those of its workspace; an operator who named none, all."""

from collections.abc import Sequence
from typing import Any, cast

import orjson
import pytest
from fastapi import FastAPI
from starlette.types import Scope

from corral.api.auth import Authenticator
from corral.api.caller import Caller, enter
from corral.api.dependencies import Dependencies
from corral.api.guard import SessionOwners
from corral.api.routes.corral import corral_routes
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, WorkspaceId
from corral.session.record import SessionOwner
from corral.session.sandboxes import SandboxView

ELSEWHERE = WorkspaceId("wrkspc_other")
OWNERS = {
    "sesn_here": SessionOwner(DEFAULT_WORKSPACE, "apikey_1"),
    "sesn_there": SessionOwner(ELSEWHERE, "apikey_2"),
    "sesn_gone": None,
}


class Desk:
    """A host with a sandbox of each."""

    sandboxes: "Desk"

    async def all(self) -> Sequence[SandboxView]:
        return [
            SandboxView(
                host_id="host_1",
                session_id=SessionId(session_id),
                provider="bwrap",
                is_busy=False,
                idle_seconds=1.0,
                disk_bytes=1,
                has_changed=False,
                checkpoint_at=None,
            )
            for session_id in OWNERS
        ]

    async def owner_of(self, session_id: SessionId) -> SessionOwner | None:
        return OWNERS[session_id]


@pytest.mark.parametrize(
    ("covers", "shown"),
    [
        (DEFAULT_WORKSPACE, ["sesn_here"]),
        (ELSEWHERE, ["sesn_there"]),
        (WorkspaceId("wrkspc_empty"), []),
        (None, ["sesn_here", "sesn_there", "sesn_gone"]),
    ],
)
async def test_sandboxes_of_a_workspace(covers: WorkspaceId | None, shown: list[str]) -> None:
    desk = Desk()
    desk.sandboxes = desk
    app = FastAPI()
    app.router.routes += corral_routes(
        cast(Dependencies, desk), cast(Authenticator, None), SessionOwners(cast(Any, desk))
    ).routes
    who = Caller(
        api_key_id="apikey_1",
        workspace_id=covers or DEFAULT_WORKSPACE,
        role="admin",
        is_operator=covers is None,
        covers=covers,
    )
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        messages.append(message)

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/corral/v1/sandboxes",
        "headers": [],
        "query_string": b"",
    }
    enter(scope, who)
    await app(scope, receive, send)
    listed = orjson.loads(messages[1]["body"])["data"]
    assert [each["session_id"] for each in listed] == shown
