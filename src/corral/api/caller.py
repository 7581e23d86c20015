"""Who sent a request, as the gate has found."""

from typing import NamedTuple, cast

from starlette.requests import Request
from starlette.types import Scope

from corral.catalog.roles import Role
from corral.kernel.ids import EnvironmentId, SessionId, WorkId, WorkspaceId

__all__ = ["Caller", "Worker", "caller", "caller_in", "enter"]

_CALLER = "corral.caller"


class Worker(NamedTuple):
    """A worker of a self-hosted environment, by its environment key; or by a sessions token, which is of
    one work item and its session. What it may do: `api.worker`.

    credential: what it is known by, its SHA-256. is_current, holds: of a token; see `session.work.Holder`.
    """

    environment_id: EnvironmentId
    credential: bytes
    work_id: WorkId | None = None
    session_id: SessionId | None = None
    is_current: bool = True
    holds: bool = True


class Caller(NamedTuple):
    """The credential, and the workspace that it acts in: nothing outside of that exists for it.

    is_operator: it may manage the server and every workspace.
    covers:      whose sandboxes, sessions and keys the operations under /corral/v1 are about: of this
                 workspace, or (None: an operator who named no workspace) of all.
    worker:      whom it is instead of somebody with an API key; `api_key_id` then names its credential.
    """

    api_key_id: str
    workspace_id: WorkspaceId
    role: Role
    is_operator: bool
    covers: WorkspaceId | None
    worker: Worker | None = None


def enter(scope: Scope, who: Caller) -> None:
    """The gate only."""
    scope[_CALLER] = who


def caller(request: Request) -> Caller:
    """Of a request that has passed the gate, and not by a public path."""
    return cast(Caller, request.scope[_CALLER])


def caller_in(scope: Scope) -> Caller | None:
    """None: by a public path, or not let in."""
    return cast(Caller | None, scope.get(_CALLER))
