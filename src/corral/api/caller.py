"""Who sent a request, as the gate has found."""

from typing import NamedTuple, cast

from starlette.requests import Request
from starlette.types import Scope

from corral.kernel.ids import WorkspaceId

__all__ = ["Caller", "caller", "enter"]

_CALLER = "corral.caller"


class Caller(NamedTuple):
    """The API key, and the workspace that it belongs to: nothing outside that exists for it."""

    api_key_id: str
    workspace_id: WorkspaceId


def enter(scope: Scope, who: Caller) -> None:
    """The gate only."""
    scope[_CALLER] = who


def caller(request: Request) -> Caller:
    """Of a request that has passed the gate, and not by a public path."""
    return cast(Caller, request.scope[_CALLER])
