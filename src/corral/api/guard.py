"""Between the router and each route: may this caller do this at all, and is the session its own?

One place for all routes, streams too, and for those still to come: whatever has `{session_id}` in its path
is checked here, before anything of the route runs. Whose a session is never changes, so it is asked once
and kept. What belongs to somebody else does not exist: the answer is that of an id nobody ever had.
"""

from collections.abc import Mapping
from typing import Literal

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corral.api.caller import Caller, caller_in
from corral.api.worker import WorkerRights
from corral.catalog.roles import Role
from corral.kernel.errors import NotFound, PermissionDenied
from corral.kernel.ids import SessionId
from corral.kernel.limits import SESSION_OWNERS_CACHED_MAX
from corral.session.record import SessionOwner, SessionStore

__all__ = ["SessionOwners", "guard", "least_role"]

Needed = Role | Literal["operator"]
_RANK: Mapping[Needed, int] = {"user": 0, "developer": 1, "admin": 2, "operator": 3}
_READS = frozenset({"GET", "HEAD"})
_OWN_WORK = ("/v1/sessions", "/corral/v1/sessions/", "/v1/messages")
_OF_THE_MACHINE = "/corral/v1/environments/{environment_id}/sandbox"  # to change it
_OPERATORS = ("/corral/v1/workspaces", "/corral/v1/vault/", "/corral/v1/status")


def least_role(method: str, path: str) -> Needed:
    """What a caller must at least be for a route, by its path template."""
    if path.startswith(_OPERATORS) or (path == _OF_THE_MACHINE and method not in _READS):
        return "operator"
    if path.startswith(_OWN_WORK) or (path == "/v1/files" and method == "POST"):
        return "user"
    if path.startswith("/corral/v1/environments/"):
        return "developer"  # who makes environments, makes keys for their workers
    if path.startswith("/corral/"):
        return "admin"
    return "user" if method in _READS else "developer"


class SessionOwners:
    """Whose which session is, as far as it was asked for; the oldest answers are forgotten first."""

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions
        self._known: dict[str, SessionOwner] = {}

    async def of(self, session_id: str) -> SessionOwner | None:
        """None if there is none. Raises StoreUnavailable."""
        owner = self._known.get(session_id)
        if owner is None:
            owner = await self._sessions.owner_of(SessionId(session_id))
            if owner is not None:
                self.learn(session_id, owner)
        return owner

    def learn(self, session_id: str, owner: SessionOwner) -> None:
        """Of a session made just now."""
        if len(self._known) >= SESSION_OWNERS_CACHED_MAX:
            del self._known[next(iter(self._known))]
        self._known[session_id] = owner


def guard(
    route: BaseRoute, owners: SessionOwners | None = None, rights: WorkerRights | None = None
) -> None:
    """Put the check in front of a route. `owners`: unless it is never about a session; `rights`: unless no
    worker's credential is taken."""
    if isinstance(route, Route):
        route.app = _Guarded(route.app, route.path, owners, rights)


class _Guarded:
    def __init__(
        self, app: ASGIApp, path: str, owners: SessionOwners | None, rights: WorkerRights | None
    ) -> None:
        self._app = app
        self._rights = rights
        self._path = path
        self._owners = owners
        self._is_of_session = "{session_id}" in path
        self._is_ours = path.startswith("/corral/")
        methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        self._needed: Mapping[str, Needed] = {method: least_role(method, path) for method in methods}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        who = caller_in(scope)
        if who is not None and who.worker is not None:
            assert self._rights is not None
            await self._rights.check(who, scope, self._path)
        elif who is not None:  # else the path is public
            needed = self._needed[scope["method"]]
            if needed != "user" and not _may(who, needed):
                raise PermissionDenied(
                    f"{scope['method']} {scope['path']} needs a key of the role {needed}; this one is"
                    f" {'an admin, but not of the default workspace' if who.role == 'admin' else who.role}"
                )
            if self._is_of_session:
                await self._check_session(who, scope["path_params"]["session_id"])
        await self._app(scope, receive, send)

    async def _check_session(self, who: Caller, session_id: str) -> None:
        """Raises NotFound, StoreUnavailable."""
        assert self._owners is not None
        owner = await self._owners.of(session_id)
        if owner is not None:
            if who.role == "user":
                if owner == (who.workspace_id, who.api_key_id):
                    return
            elif owner.workspace_id == who.workspace_id or (self._is_ours and who.covers is None):
                return
        raise NotFound(f"Session {session_id!r} was not found.")


def _may(who: Caller, needed: Needed) -> bool:
    return who.is_operator if needed == "operator" else _RANK[who.role] >= _RANK[needed]
