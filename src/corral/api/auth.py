"""Who calls: an API key, sent as `x-api-key` or `Authorization: Bearer`, looked up by its SHA-256.

The key is of one workspace and acts there. An operator's may name another with `anthropic-workspace-id`.
"""

import asyncio
from contextlib import suppress
from datetime import datetime
from hashlib import sha256

from corral.api.caller import Caller
from corral.api.worker import Workers, is_workers
from corral.catalog.records import ApiKey, ApiKeyStore
from corral.catalog.roles import is_operator
from corral.catalog.workspaces import WorkspaceStore
from corral.kernel.clock import Clock
from corral.kernel.errors import AuthenticationFailed, NotFound, PermissionDenied, StoreUnavailable
from corral.kernel.ids import DEFAULT_WORKSPACE, WorkspaceId
from corral.kernel.limits import (
    API_KEY_CACHE_SECONDS,
    API_KEY_USE_SECONDS,
    API_KEYS_CACHED_MAX,
)

__all__ = ["Authenticator", "presented"]


def presented(x_api_key: bytes | None, authorization: bytes | None) -> bytes | None:
    """The key that a request comes with, by its headers."""
    if x_api_key is not None or authorization is None:
        return x_api_key
    scheme, _, rest = authorization.partition(b" ")
    return rest.strip() if scheme.lower() == b"bearer" else None


class Authenticator:
    """Finds keys by hash and believes a find for API_KEY_CACHE_SECONDS: a key revoked on another node
    works here for that long at most. Unknown keys are never cached."""

    def __init__(
        self,
        store: ApiKeyStore,
        workspaces: WorkspaceStore,
        clock: Clock,
        *,
        workers: Workers | None = None,
    ) -> None:
        """workers: whose credentials are taken as well; nothing of them is cached."""
        self._workers = workers
        self._store = store
        self._workspaces = workspaces
        self._clock = clock
        self._cache: dict[tuple[bytes, bytes | None], tuple[float, Caller]] = {}
        self._used: dict[str, datetime] = {}

    async def authenticate(
        self, *, x_api_key: bytes | None, authorization: bytes | None, workspace: bytes | None
    ) -> Caller:
        """Who that is, in which workspace (`workspace`: the header that names one, if it was sent).

        Raises AuthenticationFailed, PermissionDenied (of another workspace), StoreUnavailable.
        """
        secret = presented(x_api_key, authorization)
        if not secret:
            raise AuthenticationFailed("Send an API key as x-api-key or as Authorization: Bearer")
        if self._workers is not None and is_workers(secret):
            return await self._workers.authenticate(secret, workspace=workspace)
        shown = (sha256(secret).digest(), workspace)
        now = self._clock.monotonic()
        cached = self._cache.get(shown)
        if cached is not None and cached[0] > now:
            return cached[1]
        key = await self._store.find(shown[0])
        if key is None:
            self._cache.pop(shown, None)
            raise AuthenticationFailed("invalid x-api-key")
        who = await self._in_workspace(key, workspace)
        if len(self._cache) >= API_KEYS_CACHED_MAX:
            self._cache.clear()
        self._cache[shown] = (now + API_KEY_CACHE_SECONDS, who)
        # A key in use is looked up again and again, so this is as good as noting every request.
        if len(self._used) < API_KEYS_CACHED_MAX:
            self._used[key.api_key_id] = self._clock.now()
        return who

    async def _in_workspace(self, key: ApiKey, header: bytes | None) -> Caller:
        """Raises PermissionDenied."""
        may_choose = is_operator(key.role, home=key.workspace_id)
        asked = key.workspace_id if header is None else WorkspaceId(header.decode("latin-1"))
        if asked != key.workspace_id:
            if not may_choose:
                raise PermissionDenied(
                    f"anthropic-workspace-id: this key belongs to {key.workspace_id!r}; leave the header"
                    " out"
                )
            if asked != DEFAULT_WORKSPACE:
                try:
                    await self._workspaces.read(asked)
                except NotFound:
                    raise PermissionDenied(
                        f"anthropic-workspace-id: there is no workspace {asked!r}; see `corral workspaces`"
                    ) from None
        return Caller(
            api_key_id=key.api_key_id,
            workspace_id=asked,
            role=key.role,
            is_operator=may_choose,
            covers=None if may_choose and header is None else asked,
        )

    def forget(self) -> None:
        """Ask the store again from now on: a key was revoked here, or a workspace archived."""
        self._cache.clear()

    async def note_uses(self) -> None:
        """Write down which keys were used, every API_KEY_USE_SECONDS, until cancelled. What is not written
        when this process dies is forgotten."""
        while True:
            await asyncio.sleep(API_KEY_USE_SECONDS)
            with suppress(StoreUnavailable):
                await self.note()

    async def note(self) -> None:
        """Raises StoreUnavailable: it is written another time."""
        used, self._used = self._used, {}
        try:
            await self._store.used(used)
        except StoreUnavailable:
            self._used = used | self._used
            raise
