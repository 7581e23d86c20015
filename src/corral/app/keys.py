"""The API keys a server starts with: the stored ones, and the command line's key of this start."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from corral.catalog.keys import as_record, new_secret
from corral.catalog.records import ApiKey, ApiKeyStore
from corral.config import Secret
from corral.kernel.clock import Clock
from corral.kernel.ids import Ids, WorkspaceId


class KeysOfThisStart:
    """`ApiKeyStore` that also knows `local_key`, which is never stored: it ends with the supervisor."""

    def __init__(self, store: ApiKeyStore, *, local_key: Secret | None, ids: Ids, clock: Clock) -> None:
        self._store = store
        self._local = (
            None
            if local_key is None
            else as_record(local_key.reveal(), name="command line", ids=ids, now=clock.now())
        )

    async def add(self, key: ApiKey) -> None:
        await self._store.add(key)

    async def find(self, sha256: bytes) -> ApiKey | None:
        if self._local is not None and self._local.sha256 == sha256:
            return self._local
        return await self._store.find(sha256)

    async def all(self, *, workspace_id: WorkspaceId | None) -> Sequence[ApiKey]:
        return await self._store.all(workspace_id=workspace_id)

    async def revoke(self, api_key_id: str, *, workspace_id: WorkspaceId | None, now: datetime) -> None:
        await self._store.revoke(api_key_id, workspace_id=workspace_id, now=now)

    async def used(self, at: Mapping[str, datetime]) -> None:
        await self._store.used(at)


async def bootstrap(store: ApiKeyStore, *, preset: Secret | None, ids: Ids, clock: Clock) -> str | None:
    """Make sure that a key exists. Returns the secret of a key made just now, to be shown once; a preset
    key is added if it is not known, and never shown."""
    if preset is None and await store.all(workspace_id=None):
        return None
    secret = preset.reveal() if preset else new_secret()
    name = "CORRAL_API_KEY" if preset else "first key"
    await store.add(as_record(secret, name=name, ids=ids, now=clock.now()))
    return None if preset else secret
